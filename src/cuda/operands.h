// Which operand of the problem is the MMA's first: a word of the tables, for their kernels and for tables.cpp.
#pragma once

namespace samebits::cuda {

enum class OperandWord {
  Straight,   ///< the tokens
  Swapped,    ///< the weight, so that small M wastes nothing
  WeightOnly  ///< the weight, which is FP8 beside 16-bit tokens
};

}  // namespace samebits::cuda
