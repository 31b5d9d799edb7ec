// Look-up in the table of model shapes.
#include "core/shapes.h"

#include <fmt/format.h>

#include <string>

#include "samebits/error.h"

namespace samebits {

const ModelShapes& model_shapes(std::string_view name) {
  std::string names;
  for (const ModelShapes& model : kModelShapes) {
    if (model.name == name) return model;
    names += names.empty() ? "" : ", ";
    names += model.name;
  }
  throw Error(ErrorCode::kBadInput, fmt::format("no shapes called '{}'; there are: {}", name, names));
}

}  // namespace samebits
