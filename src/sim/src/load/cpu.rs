//! CPU time of other processes, from the kernel.

use anyhow::{Context, bail};

/// CPU time that processes have taken, in seconds, user and system, threads that have ended included; `None`
/// for no process. The kernel counts in hundredths of a second.
pub(super) fn cpu_time(pids: &[u32]) -> anyhow::Result<Option<f64>> {
    if pids.is_empty() {
        return Ok(None);
    }
    let mut ticks = 0u64;
    for pid in pids {
        let path = format!("/proc/{pid}/stat");
        let stat = std::fs::read_to_string(&path).with_context(|| format!("process {pid}"))?;
        // The name is in parentheses and may hold anything; utime and stime are the 12th and 13th words after
        // it.
        let Some((_, rest)) = stat.rsplit_once(')') else { bail!("{path} has another form") };
        for word in rest.split_whitespace().skip(11).take(2) {
            ticks += word.parse::<u64>().with_context(|| path.clone())?;
        }
    }
    Ok(Some(ticks as f64 / 100.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_cpu_time_can_be_read() {
        assert!(cpu_time(&[std::process::id()]).unwrap().is_some());
        assert_eq!(cpu_time(&[]).unwrap(), None);
        assert!(cpu_time(&[u32::MAX]).is_err());
    }
}
