#include "sim/check/shadow.h"

namespace imgrec::sim::check {

Conflict touch_split(Shadow& shadow, Cell& cell, Touch touch, std::uint8_t mask, Access who,
                     const ThreadClock& thread) {
  if (!cell.split) {
    shadow.split.emplace_back().fill(cell);
    cell.split = static_cast<std::uint32_t>(shadow.split.size());
  }
  Conflict found;
  for (unsigned byte = 0; byte < word_bytes; ++byte) {
    if (!(mask >> byte & 1)) continue;
    const Conflict one = touch_cell(shadow.split[cell.split - 1][byte], touch, who, thread);
    if (one.access.stamp) found = one;
  }
  if (touch != Touch::read) cell.write = who;
  return found;
}

static void land(Cell& cell, Access who) {
  if (!cell.copying || cell.write.party != who.party) return;
  const SiteId site = cell.write.site;
  cell.write = who;
  cell.write.site = site;  // the copy's line says more than the wait's
  cell.copying = false;
}

void land_copy(Shadow& shadow, Cell& cell, Access who) {
  if (!cell.split) return land(cell, who);
  for (Cell& byte : shadow.split[cell.split - 1]) land(byte, who);
}

}  // namespace imgrec::sim::check
