// Look-up in the table of model shapes.
#include "core/shapes.h"

#include <fmt/format.h>

#include "samebits/error.h"

namespace samebits {

std::string model_names() {
  std::string names;
  for (const ModelShapes& model : kModelShapes) names += fmt::format("{}{}", names.empty() ? "" : ", ", model.name);
  return names;
}

const ModelShapes& model_shapes(std::string_view name) {
  for (const ModelShapes& model : kModelShapes)
    if (model.name == name) return model;
  throw Error(ErrorCode::kBadInput, fmt::format("no shapes called '{}'; there are: {}", name, model_names()));
}

}  // namespace samebits
