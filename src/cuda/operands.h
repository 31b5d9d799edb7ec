// Which operand of the problem is the MMA's first: a word of the tables. For cutlass3.cuh and mma.cuh.
#pragma once

namespace samebits::cuda {

enum class Operands {
  Straight,  ///< the tokens
  Swapped    ///< the weight, so that small M wastes nothing
};

}  // namespace samebits::cuda
