#include "sim/check/report.h"

#include <algorithm>
#include <set>
#include <tuple>
#include <vector>

namespace imgrec::sim::check {
namespace {

constexpr std::size_t most_shown = 10;

struct Report {
  std::string what, relation;
  Access who, other;  // other.stamp 0: nobody else
};

const Launch* launch_ = nullptr;
std::vector<Report> reports_;
std::set<std::tuple<const char*, SiteId, SiteId>> seen_;

std::string index_text(std::uint32_t number, const dim3& extent) {
  return "(" + std::to_string(number % extent.x) + ", " + std::to_string(number / extent.x % extent.y) + ", " +
         std::to_string(number / extent.x / extent.y) + ")";
}

std::string place_text(Access access, const Line& line) {
  const auto party = static_cast<std::uint32_t>(access.party);
  const std::uint32_t threads = launch_->threads.x * launch_->threads.y * launch_->threads.z;
  return "at " + text_of(line) + ", block " + index_text(party / threads, launch_->blocks) + ", thread " +
         index_text(party % threads, launch_->threads);
}

}  // namespace

void reports_begin(const Launch& launch) {
  launch_ = &launch;
  reports_.clear();
  seen_.clear();
}

bool is_new(const char* kind, Access who, Access other) {
  const SiteId site = who.site, other_site = other.site;
  return seen_.emplace(kind, site, other_site).second;
}

void add_report(const char* kind, Access who, const std::string& what, const char* relation, Access other) {
  reports_.push_back({std::string(kind) + ": " + what, relation, who, other});
}

std::string reports_text() {
  std::vector<SiteId> sites;
  for (std::size_t i = 0; i < std::min(reports_.size(), most_shown); ++i)
    for (const Access& access : {reports_[i].who, reports_[i].other}) sites.push_back(access.site);
  const std::vector<Line> lines = lines_of(sites);
  std::string text;
  for (std::size_t i = 0; 2 * i < lines.size(); ++i) {
    const Report& one = reports_[i];
    text +=
        std::string(i ? "\n" : "") + launch_->kernel + ": " + one.what + "\n    " + place_text(one.who, lines[2 * i]);
    if (one.other.stamp) text += "\n  " + one.relation + "\n    " + place_text(one.other, lines[2 * i + 1]);
  }
  if (reports_.size() > most_shown) text += "\n" + std::to_string(reports_.size() - most_shown) + " reports more";
  return text;
}

}  // namespace imgrec::sim::check
