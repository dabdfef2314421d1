// Memory in huge pages where the system leaves that to programs: a fault every 2 MB instead of every 4 KB.
#pragma once

#include <cstdint>
#include <cstdlib>

#if defined(__linux__)
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace gnnaccel {

constexpr uintptr_t kHugePage = uintptr_t{2} << 20;
constexpr uintptr_t kWorthHugePages = uintptr_t{4} << 20;  // smaller blocks are seldom mapped anew

// Pages of 2^order base pages that are free, by the text of /proc/buddyinfo: "Node 0, zone Normal c0 c1 c2 ...", with
// c_k blocks of 2^k pages. Of several nodes the one with least counts, since nobody knows on which a block will lie;
// nodes without a zone Normal have none of the memory that programs get.
inline int64_t free_huge_pages(const char* buddyinfo, int64_t order) {
  auto skip_word = [](const char* s) {
    while (*s != '\0' && *s != '\n' && *s != ' ') ++s;
    while (*s == ' ') ++s;
    return s;
  };
  int64_t least = -1;
  for (const char* line = buddyinfo; *line != '\0';) {
    const char* zone = skip_word(skip_word(skip_word(line)));  // after "Node", "0," and "zone"
    int64_t pages = 0;
    if (zone[0] == 'N') {  // Normal
      const char* s = skip_word(zone);
      for (int64_t k = 0; *s >= '0' && *s <= '9'; ++k, s = skip_word(s))
        if (k >= order) pages += static_cast<int64_t>(std::strtoll(s, nullptr, 10)) << (k - order);
      least = least < 0 || pages < least ? pages : least;
    }
    while (*line != '\0' && *line != '\n') ++line;
    if (*line == '\n') ++line;
  }
  return least < 0 ? 0 : least;
}

// Advice: failure changes nothing.
inline void advise_huge_pages(void* data, uintptr_t bytes) {
#if defined(__linux__)
  constexpr uintptr_t kPage = 4096;
  const uintptr_t begin = reinterpret_cast<uintptr_t>(data), first = (begin + kPage - 1) & ~(kPage - 1),
                  last = (begin + bytes) & ~(kPage - 1);
  if (bytes >= kWorthHugePages) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#endif
}

// The same for a block that lives for one call. Where memory is full of other programs' files, the kernel moves pages
// about to make a huge one, for longer than all small faults take: so only with twice as many free as are needed.
inline void advise_huge_pages_if_free(void* data, uintptr_t bytes) {
#if defined(__linux__)
  if (bytes < kWorthHugePages) return;
  static const int file = open("/proc/buddyinfo", O_RDONLY | O_CLOEXEC);
  char text[4096];
  const ssize_t length = file < 0 ? 0 : pread(file, text, sizeof(text) - 1, 0);
  if (length <= 0) return;
  text[length] = '\0';
  int64_t order = 0;
  for (const long page = sysconf(_SC_PAGESIZE); (static_cast<uintptr_t>(page) << order) < kHugePage;) ++order;
  if (free_huge_pages(text, order) >= 2 * static_cast<int64_t>(bytes / kHugePage + 1)) advise_huge_pages(data, bytes);
#endif
}

}  // namespace gnnaccel
