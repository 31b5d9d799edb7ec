// One row of a CUTLASS 3.x table: operands, mainloop, epilogue and launch. Instantiated once per generated unit through
// the SAMEBITS_DEFINE_TILE of an architecture header (sm90.cuh).
#pragma once
#include <cuda_runtime.h>

#include <cutlass/gemm/device/gemm_universal_adapter.h>
#include <cutlass/epilogue/collective/collective_builder.hpp>
#include <cutlass/gemm/collective/collective_builder.hpp>
#include <cutlass/gemm/kernel/gemm_universal.hpp>

#include "cuda/by_dtype.h"
#include "cuda/elements.cuh"
#include "cuda/epilogue.cuh"
#include "cuda/operands.h"
#include "cuda/tile.h"

namespace samebits::cuda {

template <class Row, class E>
struct Cutlass3;

/// What is fixed when a row is compiled, but for the element type. kArch: cutlass::arch tag. Schedule: a type with
/// Mainloop<fast FP8 accumulation> and Epilogue tags, and kWaitsBeforeTrigger: whether the kernel waits for the
/// previous one before it lets the next one start. One that does not must have nothing to wait for: else the next one's
/// early weight could still be in the making two kernels back.
template <class TheArch, class TheBlockTile, class TheCluster, class TheSchedule, OperandWord kOperands,
          Order kTheOrder, OutKind kTheOut>
struct Cutlass3Row {
  using Arch = TheArch;
  using BlockTile = TheBlockTile;
  using Cluster = TheCluster;
  using Schedule = TheSchedule;
  static_assert(kOperands != OperandWord::WeightOnly, "CUTLASS's rows widen no weight");
  static constexpr bool kSwapped = kOperands == OperandWord::Swapped, kWeightOnly = false;
  static constexpr Order kOrder = kTheOrder;
  static constexpr OutKind kOut = kTheOut;
  template <Dtype kA, Dtype>
  using Kernel = Cutlass3<Cutlass3Row, Element<kA>>;
};

/// A row's kernel for operands of element type E.
template <class Row, class E>
struct Cutlass3 : Row {
  using Row::kSwapped, Row::kOrder, Row::kOut;
  using typename Row::Arch, typename Row::BlockTile, typename Row::Cluster, typename Row::Schedule;
  static constexpr OrderSpec kSpec = spec(kOrder);
  static constexpr bool kPromoted = kSpec.promote_every != 0;
  static constexpr int kTileK = cute::size<2>(BlockTile{});
  static constexpr int kAlign = 16 / sizeof(E);

  using D = Carrier<kOut>;
  using LayoutD = cute::conditional_t<kSwapped, cutlass::layout::ColumnMajor, cutlass::layout::RowMajor>;
  static constexpr int kAlignOut = 16 / sizeof(D);  // TMA moves 16 bytes or more
  using Fused = Epilogue<BlockTile, kSwapped, kOut>;
  using CollectiveEpilogue = typename cutlass::epilogue::collective::CollectiveBuilder<
      Arch, cutlass::arch::OpClassTensorOp, BlockTile, Cluster, cutlass::epilogue::collective::EpilogueTileAuto, float,
      float, void, LayoutD, kAlignOut, D, LayoutD, kAlignOut, typename Schedule::Epilogue,
      typename Fused::Tree>::CollectiveOp;
  using Mainloop = typename cutlass::gemm::collective::CollectiveBuilder<
      Arch, cutlass::arch::OpClassTensorOp, E, cutlass::layout::RowMajor, kAlign, E, cutlass::layout::ColumnMajor,
      kAlign, float, BlockTile, Cluster,
      cutlass::gemm::collective::StageCountAutoCarveout<static_cast<int>(
          sizeof(typename CollectiveEpilogue::SharedStorage))>,
      typename Schedule::template Mainloop<sizeof(E) == 1 && !kPromoted>>::CollectiveOp;
  // The persistent scheduler gives each output tile to one block for all of K. Stream-K would split K by tile count.
  // A type of its own: sm100.def is built for two architectures, and objects that register one host stub would take
  // each other's code. The schedule words lie in the table's namespace, and so in this name.
  struct Kernel : cutlass::gemm::kernel::GemmUniversal<cute::Shape<int, int, int, int>, Mainloop, CollectiveEpilogue,
                                                       cutlass::gemm::PersistentScheduler> {};
  using Gemm = cutlass::gemm::device::GemmUniversalAdapter<Kernel>;

  static_assert(Mainloop::DispatchPolicy::Stages >= 2, "a row needs two stages or more: shrink its tile");
  static_assert(!kPromoted || kSpec.promote_every % kTileK == 0, "K tile must divide the promotion interval");
  // Note: the promotion interval counts MMAs of 32 elements; a K tile of 256 holds 8 and cannot promote every 128.
  static constexpr uint32_t kPromotionInterval = kPromoted ? kSpec.promote_every / kSpec.chunk : 4;

  static void launch(const GemmProblem& p, const Launch& launch) {
    const auto& x = kSwapped ? p.b : p.a;  // first operand of the MMA
    const auto& y = kSwapped ? p.a : p.b;
    const int rows = static_cast<int>(x.rows), cols = static_cast<int>(y.rows), k = static_cast<int>(p.k());
    const typename Kernel::StrideA stride_x{x.row_stride, cute::_1{}, 0};
    const typename Kernel::StrideB stride_y{y.row_stride, cute::_1{}, 0};
    typename Kernel::StrideD stride_d{};
    cute::get<kSwapped ? 1 : 0>(stride_d) = p.out.row_stride;

    typename Gemm::Arguments args{cutlass::gemm::GemmUniversalMode::kGemm,
                                  {rows, cols, k, 1},
                                  {static_cast<const E*>(x.data), stride_x, static_cast<const E*>(y.data), stride_y},
                                  {Fused::arguments(p), nullptr, stride_d, static_cast<D*>(p.out.data), stride_d}};
    if constexpr (kPromoted) args.mainloop.mma_promotion_interval = kPromotionInterval;
    args.hw_info.device_id = launch.device->ordinal;
    args.hw_info.sm_count = launch.device->sms;

    const auto check = [&](cutlass::Status status, const char* step) {
      if (status == cutlass::Status::kSuccess) return;
      const cudaError_t error = cudaGetLastError();
      throw Error(ErrorCode::kDeviceFault, std::string("CUTLASS ") + step +
                                               " failed: " + cutlassGetStatusString(status) +
                                               ", CUDA: " + cudaGetErrorString(error) + " (m=" + std::to_string(p.m()) +
                                               " n=" + std::to_string(p.n()) + " k=" + std::to_string(p.k()) + ")");
    };
    Gemm gemm;
    const auto stream = static_cast<cudaStream_t>(launch.stream);
    check(Gemm::can_implement(args), "can_implement");
    if (static_cast<int64_t>(Gemm::get_workspace_size(args)) > launch.workspace_bytes)
      throw Error(ErrorCode::kBadInput, "workspace of " + std::to_string(launch.workspace_bytes) +
                                            " bytes, CUTLASS needs " + std::to_string(Gemm::get_workspace_size(args)));
    check(gemm.initialize(args, launch.workspace, stream), "initialize");
    const bool dependent = launch.overlap != Overlap::kNone && Schedule::kWaitsBeforeTrigger;
    check(gemm.run(stream, nullptr, dependent), "run");
  }

  static constexpr int64_t kShared = Kernel::SharedStorageSize;
};

}  // namespace samebits::cuda

// One kernel of the cutlass::arch `tag` and its symbol `kernel_<name>` in the table's namespace, which tables.cpp
// declares from the same row. The header of an architecture says what its rows must be, then defines
// SAMEBITS_DEFINE_TILE by this.
#define SAMEBITS_CUTLASS_TILE(tag, name, tile_m, tile_n, tile_k, cluster_m, cluster_n, schedule, operands, order, out) \
  namespace samebits::cuda::SAMEBITS_TABLE {                                                                           \
  extern const TileKernel kernel_##name;                                                                               \
  const TileKernel kernel_##name = kernels_by_dtype<                                                                   \
      Cutlass3Row<cutlass::arch::tag, cute::Shape<cute::Int<tile_m>, cute::Int<tile_n>, cute::Int<tile_k>>,            \
                  cute::Shape<cute::Int<cluster_m>, cute::Int<cluster_n>, cute::_1>, schedule, OperandWord::operands,  \
                  Order::k##order, OutKind::k##out>>();                                                                \
  }
