// Order names.
#include "samebits/order.h"

#include <fmt/format.h>

#include "samebits/error.h"

namespace samebits {

Order parse_order(std::string_view text) {
  std::string names;
  for (const OrderSpec& s : kOrders) {
    if (s.name == text) return s.order;
    names += names.empty() ? "" : ", ";
    names += s.name;
  }
  throw Error(ErrorCode::kBadInput, fmt::format("unknown order '{}'; there are: {}", text, names));
}

}  // namespace samebits
