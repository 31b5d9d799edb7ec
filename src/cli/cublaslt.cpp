// See cublaslt.h. The constants and signatures are those of NVIDIA's documented C interface, the same in CUDA 12.9 and
// 13; writing the dozen that are used here keeps the CUDA headers out of the command line.
#include "cli/cublaslt.h"

#include <dlfcn.h>
#include <fmt/format.h>

#include <algorithm>

namespace samebits::cli {
namespace {

constexpr int kR32F = 0, kR16BF = 14, kR8FE4M3 = 28;  // cudaDataType_t
constexpr int kCompute32F = 68;                       // cublasComputeType_t
constexpr int kOpN = 0, kOpT = 1;                     // cublasOperation_t
// cublasLtMatmulDescAttributes_t
constexpr int kTransA = 3, kTransB = 4, kScalePointerA = 17, kScalePointerB = 18, kFastAccumulation = 25,
              kScaleModeA = 31, kScaleModeB = 32;
constexpr int kOuterVector32F = 3;                     // cublasLtMatmulMatrixScale_t
constexpr int kMaxWorkspaceBytes = 1;                  // cublasLtMatmulPreferenceAttributes_t
constexpr int kSplitKParts = 2, kReductionScheme = 3;  // cublasLtMatmulAlgoConfigAttributes_t
constexpr int kMostSuggestions = 8;

struct HeuristicResult {  // cublasLtMatmulHeuristicResult_t
  uint64_t algorithm[8];
  size_t workspace_bytes;
  int state;
  float waves;
  int reserved[4];
};

void check(int status, const char* what) {
  if (status != 0) throw Error(ErrorCode::kUnsupported, fmt::format("cuBLASLt: {} returned status {}", what, status));
}

}  // namespace

struct CublasLt::Api {
  void* library = nullptr;
  int (*create)(void** handle);
  int (*destroy)(void* handle);
  size_t (*get_version)();
  int (*desc_create)(void** desc, int compute_type, int scale_type);
  int (*desc_destroy)(void* desc);
  int (*desc_set)(void* desc, int attribute, const void* value, size_t bytes);
  int (*layout_create)(void** layout, int type, uint64_t rows, uint64_t cols, int64_t leading_dimension);
  int (*layout_destroy)(void* layout);
  int (*preference_create)(void** preference);
  int (*preference_destroy)(void* preference);
  int (*preference_set)(void* preference, int attribute, const void* value, size_t bytes);
  int (*heuristic)(void* handle, void* desc, void* a, void* b, void* c, void* d, void* preference, int wanted,
                   HeuristicResult* results, int* found);
  int (*config_get)(const void* algorithm, int attribute, void* value, size_t bytes, size_t* written);
  int (*matmul)(void* handle, void* desc, const void* alpha, const void* a, void* a_layout, const void* b,
                void* b_layout, const void* beta, const void* c, void* c_layout, void* d, void* d_layout,
                const void* algorithm, void* workspace, size_t workspace_bytes, void* stream);

  template <class Function>
  void find(Function& function, const char* name) {
    function = reinterpret_cast<Function>(dlsym(library, name));
    if (!function) throw Error(ErrorCode::kUnsupported, fmt::format("cuBLASLt: this library has no {}", name));
  }
  ~Api() {
    if (library) dlclose(library);
  }
};

CublasLt::CublasLt(const std::string& path) : api_(std::make_unique<Api>()) {
  const std::vector<std::string> names = path.empty()
                                             ? std::vector<std::string>{"libcublasLt.so.13", "libcublasLt.so.12"}
                                             : std::vector<std::string>{path};
  std::string why;
  for (const std::string& name : names) {
    if ((api_->library = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL))) break;
    why = dlerror();
  }
  if (!api_->library) throw Error(ErrorCode::kUnsupported, fmt::format("cuBLASLt was not found: {}", why));
  api_->find(api_->create, "cublasLtCreate");
  api_->find(api_->destroy, "cublasLtDestroy");
  api_->find(api_->get_version, "cublasLtGetVersion");
  api_->find(api_->desc_create, "cublasLtMatmulDescCreate");
  api_->find(api_->desc_destroy, "cublasLtMatmulDescDestroy");
  api_->find(api_->desc_set, "cublasLtMatmulDescSetAttribute");
  api_->find(api_->layout_create, "cublasLtMatrixLayoutCreate");
  api_->find(api_->layout_destroy, "cublasLtMatrixLayoutDestroy");
  api_->find(api_->preference_create, "cublasLtMatmulPreferenceCreate");
  api_->find(api_->preference_destroy, "cublasLtMatmulPreferenceDestroy");
  api_->find(api_->preference_set, "cublasLtMatmulPreferenceSetAttribute");
  api_->find(api_->heuristic, "cublasLtMatmulAlgoGetHeuristic");
  api_->find(api_->config_get, "cublasLtMatmulAlgoConfigGetAttribute");
  api_->find(api_->matmul, "cublasLtMatmul");
  check(api_->create(&handle_), "cublasLtCreate");
}

CublasLt::~CublasLt() {
  if (handle_) api_->destroy(handle_);
}

std::string CublasLt::version() const {
  const size_t v = api_->get_version();  // 10000 * major + 100 * minor + patch
  return fmt::format("{}.{}.{}", v / 10000, v / 100 % 100, v % 100);
}

// cuBLASLt thinks in columns: out^T [N,M] = (b as K x N)^T (a as K x M), so its A is the weight.
CublasLtMatmul::CublasLtMatmul(const CublasLt& library, const GemmProblem& problem, const LtCall& call)
    : library_(library), a_(problem.a.data), out_(problem.out.data) {
  const CublasLt::Api& api = *library.api_;
  const auto set = [&](int attribute, const auto& value) {
    check(api.desc_set(description_, attribute, &value, sizeof value), "cublasLtMatmulDescSetAttribute");
  };
  check(api.desc_create(&description_, kCompute32F, kR32F), "cublasLtMatmulDescCreate");
  set(kTransA, kOpT);
  set(kTransB, kOpN);
  const bool fp8 = problem.a.dtype == Dtype::kE4m3;
  const int type = fp8 ? kR8FE4M3 : kR16BF;
  if (fp8) set(kFastAccumulation, static_cast<int8_t>(call.fast_accumulation));
  if (call.outer_vector) {  // one scale a tensor is the default
    set(kScaleModeA, kOuterVector32F);
    set(kScaleModeB, kOuterVector32F);
  }
  if (fp8) {
    set(kScalePointerA, problem.scale_b.data);
    set(kScalePointerB, problem.scale_a.data);
  }
  const uint64_t m = static_cast<uint64_t>(problem.m()), n = static_cast<uint64_t>(problem.n()),
                 k = static_cast<uint64_t>(problem.k());
  check(api.layout_create(&weight_, type, k, n, problem.b.row_stride), "cublasLtMatrixLayoutCreate");
  check(api.layout_create(&tokens_, type, k, m, problem.a.row_stride), "cublasLtMatrixLayoutCreate");
  check(api.layout_create(&result_, kR16BF, n, m, problem.out.row_stride), "cublasLtMatrixLayoutCreate");

  void* preference = nullptr;
  check(api.preference_create(&preference), "cublasLtMatmulPreferenceCreate");
  api.preference_set(preference, kMaxWorkspaceBytes, &call.workspace_bytes, sizeof call.workspace_bytes);
  HeuristicResult results[kMostSuggestions];
  int found = 0;
  const int status = api.heuristic(library.handle_, description_, weight_, tokens_, result_, result_, preference,
                                   std::min(call.suggestions, kMostSuggestions), results, &found);
  api.preference_destroy(preference);
  for (int i = 0; status == 0 && i < found; ++i) {
    if (results[i].state != 0) continue;
    Algorithm& algorithm = algorithms_.emplace_back();
    std::copy(std::begin(results[i].algorithm), std::end(results[i].algorithm), algorithm.data);
  }
}

CublasLtMatmul::~CublasLtMatmul() {
  const CublasLt::Api& api = *library_.api_;
  for (void* layout : {weight_, tokens_, result_})
    if (layout) api.layout_destroy(layout);
  if (description_) api.desc_destroy(description_);
}

std::optional<SplitK> CublasLtMatmul::split_k(int i) const {
  const auto get = [&](int attribute, uint32_t& value) {
    size_t written = 0;
    return library_.api_->config_get(algorithms_[static_cast<size_t>(i)].data, attribute, &value, sizeof value,
                                     &written) == 0;
  };
  uint32_t parts = 0, scheme = 0;
  if (!get(kSplitKParts, parts) || !get(kReductionScheme, scheme)) return std::nullopt;
  switch (scheme) {  // cublasLtReductionScheme_t
    case 0: return SplitK{parts, "none"};
    case 1: return SplitK{parts, "in place"};
    case 2: return SplitK{parts, "compute type"};
    case 4: return SplitK{parts, "output type"};
    default: return SplitK{parts, "unknown"};
  }
}

void CublasLtMatmul::run(int i, const void* b, const Launch& launch) const {
  const float one = 1.0f, zero = 0.0f;
  check(library_.api_->matmul(library_.handle_, description_, &one, b, weight_, a_, tokens_, &zero, out_, result_, out_,
                              result_, algorithms_[static_cast<size_t>(i)].data, launch.workspace,
                              static_cast<size_t>(launch.workspace_bytes), launch.stream),
        "cublasLtMatmul");
}

}  // namespace samebits::cli
