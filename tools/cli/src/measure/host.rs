//! Processes, as their system sees them.

/// The most memory this process ever had resident, in bytes, where the system tells.
pub fn peak_rss() -> Option<u64> {
    field(&std::fs::read_to_string("/proc/self/status").ok()?, "VmHWM:")
}

/// The memory that a process has resident now, in bytes, where the system tells.
pub fn rss_of(pid: u32) -> Option<u64> {
    field(
        &std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?,
        "VmRSS:",
    )
}

fn field(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    #[test]
    fn kilobytes_are_of_1024_bytes() {
        let status = "Name:\tropeway\nVmPeak:\t  99 kB\nVmHWM:\t   12 kB\nVmRSS:\t    3 kB\n";
        assert_eq!(super::field(status, "VmHWM:"), Some(12288));
        assert_eq!(super::field(status, "VmRSS:"), Some(3072));
        assert_eq!(super::field("Name:\tropeway\n", "VmHWM:"), None);
    }
}
