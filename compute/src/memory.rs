use std::fs;
use std::path::{Path, PathBuf};

/// Most physical memory that this process has held so far, in bytes; `None` where `/proc` does not tell.
pub fn peak_rss_bytes() -> Option<u64> {
    kilobytes(&fs::read_to_string("/proc/self/status").ok()?, "VmHWM:")
}

/// Physical memory that this process holds now, mapped files included, in bytes; `None` where `/proc` does not tell.
pub fn rss_bytes() -> Option<u64> {
    kilobytes(&fs::read_to_string("/proc/self/status").ok()?, "VmRSS:")
}

/// Physical memory that this process holds now, mapped files not included, in bytes; `None` where `/proc` does not tell.
pub fn anonymous_bytes() -> Option<u64> {
    kilobytes(&fs::read_to_string("/proc/self/status").ok()?, "RssAnon:")
}

/// Memory that this process may use, in bytes: the least limit of its control group and the groups above it,
/// else the memory of the machine; `None` where neither can be read.
pub fn memory_limit_bytes() -> Option<u64> {
    let machine = fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| kilobytes(&text, "MemTotal:"));
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let root = Path::new("/sys/fs/cgroup");
    limit_files(root, &groups)
        .into_iter()
        .filter_map(|path| fs::read_to_string(path).ok()?.trim().parse().ok()) // `max` is no number and no limit
        .chain(machine)
        .min()
}

/// Has the allocator keep what is freed for what is asked for next, up to 2 GiB at the top of the heap.
///
/// By default glibc maps each large block and unmaps it when it is freed. A training step frees hundreds of megabytes
/// and asks for them again, and a quarter of its time goes into fresh pages. Before 2.35 glibc keeps blocks of up to 32 MiB
/// alone. Other allocators are left as they are.
pub fn keep_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: `mallopt` takes two numbers and locks the allocator itself.
    unsafe {
        if libc::mallopt(libc::M_MMAP_THRESHOLD, i32::MAX) == 0 {
            libc::mallopt(libc::M_MMAP_THRESHOLD, 32 << 20);
        }
        libc::mallopt(libc::M_TRIM_THRESHOLD, i32::MAX);
    }
}

/// Returns the value of the line `<field> <n> kB` in bytes.
fn kilobytes(text: &str, field: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(field))?;
    line.trim()
        .strip_suffix("kB")?
        .trim()
        .parse::<u64>()
        .ok()?
        .checked_mul(1024)
}

/// Returns the files that may hold a limit for a process whose `/proc/self/cgroup` is `groups`.
///
/// Lines are `0::/path` in version 2 and `4:memory:/path` in version 1. In a container the path is often that of
/// the host while the mounted tree starts at the container's own group, so every ancestor up to the root is listed.
fn limit_files(root: &Path, groups: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else {
            continue;
        };
        let (tree, file) = if controllers.is_empty() {
            (root.to_path_buf(), "memory.max")
        } else if controllers.split(',').any(|name| name == "memory") {
            (root.join("memory"), "memory.limit_in_bytes")
        } else {
            continue;
        };
        files.extend(
            Path::new(path.trim_start_matches('/'))
                .ancestors()
                .map(|group| tree.join(group).join(file)),
        );
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_in_kilobytes_is_read_as_bytes() {
        let text = "VmPeak:\t  9 kB\nVmHWM:\t     512 kB\n";
        assert_eq!(kilobytes(text, "VmHWM:"), Some(512 * 1024));
        assert_eq!(kilobytes(text, "VmRSS:"), None);
        assert_eq!(kilobytes("VmHWM: many kB", "VmHWM:"), None);
        assert_eq!(kilobytes("VmHWM: 18446744073709551615 kB", "VmHWM:"), None);
    }

    #[test]
    fn limits_are_looked_for_in_the_group_and_above_it() {
        let files = |groups| limit_files(Path::new("/r"), groups);
        assert_eq!(
            files("0::/a/b\n"),
            ["/r/a/b/memory.max", "/r/a/memory.max", "/r/memory.max"].map(PathBuf::from)
        );
        assert_eq!(
            files("5:cpu:/x\n4:memory,hugetlb:/y\n"),
            [
                "/r/memory/y/memory.limit_in_bytes",
                "/r/memory/memory.limit_in_bytes"
            ]
            .map(PathBuf::from)
        );
        assert!(files("nonsense").is_empty());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_has_a_peak_below_its_limit() {
        let (peak, limit) = (
            peak_rss_bytes().expect("Linux tells"),
            memory_limit_bytes().expect("Linux tells"),
        );
        assert!(0 < peak && peak < limit, "{peak} {limit}");
    }

    /// Blocks that were freed are used again without a page fault.
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    #[test]
    fn freed_memory_is_kept() {
        let fill = || std::hint::black_box(vec![1_u8; 16 << 20]);
        let before = page_faults();
        drop(fill());
        let mapped = page_faults() - before;
        keep_freed_memory();
        drop(fill());
        let before = page_faults();
        drop(fill());
        let kept = page_faults() - before;
        assert!(kept * 10 < mapped, "{kept} page faults, {mapped} before");
    }

    /// Minor page faults of this thread so far, whatever other tests do: the tenth field of its `stat`.
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    fn page_faults() -> u64 {
        let stat = fs::read_to_string("/proc/thread-self/stat").unwrap();
        let (_, fields) = stat.rsplit_once(')').unwrap();
        fields.split_whitespace().nth(7).unwrap().parse().unwrap()
    }
}
