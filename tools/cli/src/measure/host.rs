//! This process, as its system sees it.

/// The most memory this process ever had resident, in bytes, where the system tells.
pub fn peak_rss() -> Option<u64> {
    of_status(&std::fs::read_to_string("/proc/self/status").ok()?)
}

fn of_status(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    #[test]
    fn kilobytes_are_of_1024_bytes() {
        let status = "Name:\tropeway\nVmPeak:\t  99 kB\nVmHWM:\t   12 kB\n";
        assert_eq!(super::of_status(status), Some(12288));
        assert_eq!(super::of_status("Name:\tropeway\n"), None);
    }
}
