// The layers that `samebits verify` proves: those of a checkpoint, or random weights of a known model's shapes.
#pragma once
#include <optional>
#include <string>
#include <vector>

#include "cli/progress.h"
#include "core/generator.h"
#include "io/safetensors.h"
#include "samebits/checkpoint.h"
#include "samebits/verify.h"

namespace samebits::cli {

/// Layers with whatever keeps their views alive.
struct LayerSet {
  std::vector<VerifyLayer> layers;
  std::vector<NotCovered> not_covered;
  std::optional<Checkpoint> checkpoint;
  std::vector<RandomWeight> random;
  std::optional<SafetensorsFile> activations;
};

/// Throws Error(kBadInput) that names what is there instead if no linear layer is found, and on NaN in one, with its
/// coordinate. Stops early on `cancel`.
LayerSet layers_of_checkpoint(const std::string& path, const std::atomic<bool>& cancel, Progress& progress);

/// Layers "NAME.NxK", weights by generate_weight() with key (seed, layer name + ".weight"). Stops early on `cancel`.
/// With `blocks` the weights have scales for blocks of 128 x 128.
LayerSet layers_of_shapes(const std::string& name, uint64_t seed, int threads, bool blocks,
                          const std::atomic<bool>& cancel, Progress& progress);

/// Gives every layer its activations from a safetensors file: the tensor [M,K] of the layer's name, else the file's
/// only tensor. Throws Error(kBadInput) that names a layer left without.
void load_activations(LayerSet& set, const std::string& path);

}  // namespace samebits::cli
