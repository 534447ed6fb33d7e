//! The machine that a measurement was made on.

use std::fs;

use serde_json::{Value, json};

use crate::callgrind;
use crate::process;

pub(crate) fn describe() -> Value {
    let first = |program: &str, arguments: &[&str]| {
        let output = process::command(program).args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_string())
    };
    let cpu = fs::read_to_string("/proc/cpuinfo").ok().and_then(|text| model(&text));
    let cpu = cpu.or_else(|| first("sysctl", &["-n", "machdep.cpu.brand_string"]));
    json!({
        "cpu": cpu.unwrap_or_else(|| std::env::consts::ARCH.to_string()),
        "cores": std::thread::available_parallelism().map_or(0, usize::from),
        "system": first("uname", &["-sr"]).unwrap_or_else(|| std::env::consts::OS.to_string()),
        "rustc": first("rustc", &["--version"]),
        "valgrind": callgrind::version(),
    })
}

/// Hosted machines share a name and differ in family and model.
fn model(cpuinfo: &str) -> Option<String> {
    let field = |name: &str| {
        let line =
            cpuinfo.lines().find(|line| line.split(':').next().is_some_and(|key| key.trim() == name))?;
        Some(line.split_once(':')?.1.trim())
    };
    let vector = if field("flags").is_some_and(|flags| flags.contains("avx512f")) { ", AVX-512" } else { "" };
    let place = format!("family {}, model {}", field("cpu family")?, field("model")?);
    Some(format!("{} ({place}{vector})", field("model name")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_is_told_from_another() {
        let text = "cpu family\t: 25\nmodel\t\t: 1\nmodel name\t: Some CPU\nflags\t\t: fpu avx2\n";
        assert_eq!(model(text).unwrap(), "Some CPU (family 25, model 1)");
        assert_eq!(
            model(&text.replace("avx2", "avx512f")).unwrap(),
            "Some CPU (family 25, model 1, AVX-512)"
        );
        assert!(model("").is_none());
        assert!(describe()["cores"].as_u64().unwrap() > 0);
    }
}
