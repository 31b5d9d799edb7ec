// The certificate of a machine: every row of the tables that a GPU can launch, held to every other one and to the CPU
// backend over data made to tell them apart. Made by `samebits prove`; choose() uses more than the FIXED row of an
// architecture on a device with one (DeviceInfo::certified).
#pragma once
#include <atomic>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "samebits/gemm.h"

namespace samebits {

/// Version of docs/contract.md: a change of any bit that it promises raises it.
inline constexpr int kContractVersion = 1;

/// How a matrix unit adds, seen through a row: probes with one nonzero product here and there, each of which returns a
/// power of two or nothing. A row of 16-bit operands is asked in bf16, one of block scales with scales of 1. Words as
/// in docs/contract.md.
struct UnitBehaviour {
  uint64_t step = 0;                 ///< bit i: element i of K is added in one step with elements 0 and 1
  int align_bits = 0;                ///< -1: even 2^-30 of the largest term is kept
  int result_bits = 0;               ///< -1: more than 25
  bool truncates = false;            ///< toward zero, terms and sum; false: anything else
  bool accumulator_aligned = false;  ///< the accumulator is cut like a product
  int promote_every = 0;             ///< elements of K in a chain; 0: one chain over at least 512

  /// Elements of one step.
  int chunk() const;
  /// Whether these are the constants of the Order, elements of a step adjacent.
  bool is(const OrderSpec& order) const;
  bool operator==(const UnitBehaviour&) const = default;
};

/// One row under proof: how it is launched. `run` must behave as gemm().
struct ProofRow {
  std::string name;
  Order order = Order::kHopperFast;
  bool fp32 = false;  ///< writes fp32, else bf16 and fp16
  std::function<void(const GemmProblem& problem, const Launch& launch)> run;
  bool weight_only = false;  ///< takes `b` in e4m3 beside a 16-bit `a`, and no other
};

/// What was found of one row.
struct ProvedRow {
  std::string name;
  bool fp32 = false;
  uint64_t outputs = 0;    ///< compared with the first row of its kind; the first one's with `ProvedOrder::cpu`
  uint64_t differing = 0;  ///< outputs of other bits, and elements written outside of the output
  std::string first;       ///< where the first of them was; empty if none
  bool operator==(const ProvedRow&) const = default;
};

/// What was found of one Order.
struct ProvedOrder {
  Order order = Order::kHopperFast;
  bool auditable = false;  ///< the CPU backend has the same bits: cpu.differing is 0
  uint64_t digest = 0;     ///< XXH3-64 over the first rows' outputs: equal wherever the bits are
  UnitBehaviour unit;
  std::vector<ProvedRow> rows;
  ProvedRow cpu = {"cpu", false, 0, 0, ""};  ///< the CPU backend held to the first rows; no outputs: not recorded

  bool same() const;         ///< all rows agree among themselves
  uint64_t outputs() const;  ///< of all rows
  bool operator==(const ProvedOrder&) const = default;
};

struct ProveOptions {
  const DeviceInfo* device = &cpu_device();
  int rounds = 8;              ///< each with its own data; the cases of a round cover every kind of data and shape
  int threads = 0;             ///< CPU threads; 0: all
  std::vector<ProofRow> rows;  ///< empty: every row of the tables that the device can launch
  std::function<void(double fraction, const std::string& what)> progress;
  const std::atomic<bool>* cancel = nullptr;
};

struct ProveReport {
  std::vector<ProvedOrder> orders;
  uint64_t control =
      0;  ///< outputs in which a K-split schedule differed under the same comparison; 0: nothing is proven
  std::vector<std::string>
      left_out;  ///< why rows of the device's architecture were not run, a sentence with the name each
  bool cancelled = false;

  bool same() const;      ///< all rows of every Order agree, and the control was caught
  bool complete() const;  ///< and no row was left out: what a certificate says
};

/// Runs the proof. Deterministic: the same digests and counts on every device of one kind. Throws Error(kNoDevice) for
/// a device without rows, and what gemm() throws, with the row and the case in front.
ProveReport prove(const ProveOptions& options);

/// What a certificate file says. It holds for devices of one kind, this version of the library and of the contract, and
/// the driver's major version.
struct Certificate {
  std::string device;  ///< name of the GPU
  int arch = 0;        ///< 10 * major + minor of its compute capability
  int sms = 0;
  int driver = 0;  ///< CUDA version of the driver, as in DeviceInfo
  std::string version;
  int contract = kContractVersion;
  std::string date;  ///< "2026-11-24"
  int rounds = 0;
  std::vector<ProvedOrder> orders;
  uint64_t digest = 0;  ///< XXH3-64 of the file's content; set by load_certificate()

  bool holds_for(const DeviceInfo& other) const;
};

/// The certificate of a report that is complete. Throws Error(kBadInput) for another report.
Certificate make_certificate(const ProveReport& report, const DeviceInfo& device, int rounds, const std::string& date);

/// Reads a certificate. Needs no GPU. Throws Error(kIo), or Error(kBadInput) with a sentence: damaged text (its digest
/// differs), another format, library or contract version, a row that this build does not have, or one that it has and
/// the certificate does not name.
Certificate load_certificate(const std::filesystem::path& path);

/// Writes a certificate, as a whole or not at all. Throws Error(kIo).
void save_certificate(const Certificate& certificate, const std::filesystem::path& path);

/// Removes the file if load_certificate() takes it and it holds for the device, and says whether: what an earlier proof
/// said must not outlive one that failed. Any other file stays. Throws Error(kIo).
bool remove_certificate(const std::filesystem::path& path, const DeviceInfo& device);

/// Throws Error(kBadInput) with both sides unless the certificate holds for the device.
void check_certificate(const Certificate& certificate, const DeviceInfo& device);

/// The devices, those of them certified for which the certificate holds.
std::vector<DeviceInfo> with_certificate(std::vector<DeviceInfo> devices, const Certificate& certificate);
/// The GPUs of this process with the certificate. Throws what check_certificate() does if it holds for none of them.
std::vector<DeviceInfo> certified_gpus(const Certificate& certificate);

}  // namespace samebits
