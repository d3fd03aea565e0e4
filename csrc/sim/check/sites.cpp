#include "sim/check/sites.h"

#include <link.h>
#include <sys/mman.h>

#include <cstdio>
#include <filesystem>
#include <map>
#include <memory>
#include <new>
#include <tuple>

namespace imgrec::sim::check {
namespace {

/// One number's meaning: an instruction, or a line.
struct Place {
  const void* return_address = nullptr;
  Line line;
  bool resolved = false;
};

constexpr std::size_t most_sites = 0xFFFF;
constexpr std::size_t addresses_at_once = 4000;  // on one command line

std::vector<Place>& places() {
  static std::vector<Place> all{{nullptr, {"an unknown place", 0}, true}};
  return all;
}

SiteId add(Place place) {
  if (places().size() > most_sites) return 0;
  places().push_back(std::move(place));
  return static_cast<SiteId>(places().size() - 1);
}

Module find_module() {
  Module found;
  dl_iterate_phdr(
      [](dl_phdr_info* info, std::size_t, void* opaque) {
        Module module;
        module.load_address = info->dlpi_addr;
        for (int i = 0; i < info->dlpi_phnum; ++i) {
          const auto& header = info->dlpi_phdr[i];
          if (header.p_type != PT_LOAD) continue;
          const std::uintptr_t start = info->dlpi_addr + header.p_vaddr;
          module.begin = std::min<std::uintptr_t>(module.begin, start);
          module.end = std::max<std::uintptr_t>(module.end, start + header.p_memsz);
        }
        const auto here = reinterpret_cast<std::uintptr_t>(&find_module);
        if (here < module.begin || here >= module.end) return 0;
        module.path =
            *info->dlpi_name ? std::filesystem::path(info->dlpi_name) : std::filesystem::read_symlink("/proc/self/exe");
        *static_cast<Module*>(opaque) = module;
        return 1;
      },
      &found);
  return found;
}

SiteId* map_table() {
  const std::size_t bytes = (this_module().end - this_module().begin) * sizeof(SiteId);
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  return static_cast<SiteId*>(memory);
}

std::string from_csrc(const std::string& file) {
  const std::size_t place = file.rfind("csrc/");
  return place == std::string::npos ? file : file.substr(place);
}

/// Whether a line belongs to what kernels are written with, not to a kernel. Compilers may name a file by way of the
/// folder that they were started in, "build/csrc/sim/../../../csrc/cuda/x.cu", so only what follows counts.
bool is_support(const std::string& file) {
  const std::string ours = from_csrc(file);
  if (!ours.starts_with("csrc/")) return ours.find("/include/") != std::string::npos;
  for (const char* folder : {"csrc/cuda/arch/", "csrc/sim/", "csrc/cpu/"})
    if (ours.starts_with(folder)) return true;
  return false;
}

/// Reads what addr2line says about one address: lines "file:number", innermost first.
void add_frame(Line& chosen, bool& final, const char* text) {
  std::string frame(text);
  while (!frame.empty() && frame.back() == '\n') frame.pop_back();
  frame = frame.substr(0, frame.find(" (discriminator"));
  const std::size_t colon = frame.rfind(':');
  if (final || colon == std::string::npos || frame[0] == '?') return;
  const std::string file = frame.substr(0, colon);
  final = !is_support(file);
  if (final || chosen.file.empty()) chosen = {from_csrc(file), std::atoi(frame.c_str() + colon + 1)};
}

void resolve(const SiteId* first, std::size_t count) {
  std::string command = "addr2line -a -i -e '" + this_module().path + "'";
  char number[32];
  for (std::size_t i = 0; i < count; ++i) {
    const auto address = reinterpret_cast<std::uintptr_t>(places()[first[i]].return_address);
    std::snprintf(number, sizeof(number), " 0x%zx", address - 1 - this_module().load_address);
    command += number;
  }
  std::unique_ptr<FILE, int (*)(FILE*)> output(popen((command + " 2>/dev/null").c_str(), "r"), &pclose);
  char text[4096];
  Place* place = nullptr;
  bool final = false;
  for (std::size_t next = 0; output && std::fgets(text, sizeof(text), output.get());) {
    if (text[0] == '0' && text[1] == 'x') {
      place = next < count ? &places()[first[next++]] : nullptr;
      final = false;
    } else if (place) {
      add_frame(place->line, final, text);
    }
  }
  for (std::size_t i = 0; i < count; ++i) {
    Place& done = places()[first[i]];
    done.resolved = true;
    const auto address = reinterpret_cast<std::uintptr_t>(done.return_address);
    std::snprintf(number, sizeof(number), "+0x%zx", address - 1 - this_module().load_address);
    if (done.line.file.empty()) done.line.file = this_module().path + number;  // without addr2line
  }
}

}  // namespace

const Module& this_module() {
  static const Module found = find_module();
  return found;
}

SiteId* const site_of_instruction = map_table();
const std::uintptr_t module_begin = this_module().begin;

SiteId add_instruction(const void* return_address) {
  const SiteId site = add({return_address, {}, false});
  site_of_instruction[reinterpret_cast<std::uintptr_t>(return_address) - module_begin] = site;
  return site;
}

SiteId site_of(Site site) {
  static std::map<std::tuple<const char*, unsigned, unsigned>, SiteId> known;
  SiteId& found = known[{site.file_name(), site.line(), site.column()}];
  if (!found) found = add({nullptr, {from_csrc(site.file_name()), static_cast<int>(site.line())}, true});
  return found;
}

// The function's first instruction: addresses are those behind an instruction.
SiteId site_of_function(const void* function) { return site_of(static_cast<const unsigned char*>(function) + 1); }

std::vector<Line> lines_of(const std::vector<SiteId>& sites) {
  std::vector<SiteId> unresolved;
  for (const SiteId site : sites)
    if (!places()[site].resolved) unresolved.push_back(site);
  for (std::size_t first = 0; first < unresolved.size(); first += addresses_at_once)
    resolve(unresolved.data() + first, std::min(addresses_at_once, unresolved.size() - first));
  std::vector<Line> lines;
  for (const SiteId site : sites) lines.push_back(places()[site].line);
  return lines;
}

std::string text_of(const Line& line) {
  return line.number ? line.file + ":" + std::to_string(line.number) : line.file;
}

}  // namespace imgrec::sim::check
