//! Memory that is compressed on its way to another machine.

use crate::migrate::{assert_gone, migrate, migration, remembered, there};
use crate::{count, counter, counts_on};
use hiber_tests::command::run;
use hiber_tests::prelude::*;

/// A frame of the protocol.
fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    [&[kind][..], &u32::try_from(payload.len()).unwrap().to_le_bytes(), payload].concat()
}

#[test]
fn fewer_bytes_go_over_and_the_content_is_the_same() {
    require!(Root, Criu, Redis);
    let (c, there) = (Runtime::hiber().container(Bundle::redis()), there(Bundle::redis()));
    c.run_detached().ok();
    wait_for("redis", || c.exec(&["redis-cli", "ping"]).stdout.contains("PONG"));
    let fill = "local t = {} for i = 1, 4000000 do t[i % 4000 + 1] = string.format('%07d,', i) \
                if i % 4000 == 0 then redis.call('APPEND', 'k', table.concat(t)) end end return redis.call('STRLEN', 'k')";
    assert_eq!(c.exec(&["redis-cli", "eval", fill, "0"]).ok(), "32000000");
    let digest = |c: &Container| {
        let sum = "return redis.sha1hex(redis.call('GET', 'k'))";
        c.exec(&["redis-cli", "eval", sum, "0"]).ok().to_owned()
    };
    let before = digest(&c);
    let (mut from, mut to) = (&c, &there);
    let mut sent = |flags: &[&str]| {
        let flags = [flags, &["--pre-copy", "on", "--on-miss", "force", "--format", "json"]].concat();
        let output = migrate(from, to, &flags);
        let done: Value = serde_json::from_str(output.ok().lines().last().unwrap()).unwrap();
        assert_gone(from);
        assert_eq!(digest(to), before, "{flags:?}");
        std::mem::swap(&mut from, &mut to);
        done["bytes"].as_u64().unwrap()
    };
    let plain = sent(&["--compress", "none"]);
    assert!(plain > 32_000_000, "{plain}");
    // redis leaves parts of the string at places that differ from run to run.
    for (how, least) in [("zstd", 2.5), ("lz4", 1.5)] {
        let packed = sent(&["--compress", how]);
        assert!(packed as f64 * least < plain as f64, "{how}: {packed} of {plain}");
    }
    // A link of 10 MiB a second is slower than the processor.
    let packed = sent(&["--bandwidth", "10M"]);
    assert!(packed as f64 * 1.5 < plain as f64, "auto: {packed} of {plain}");
}

#[test]
fn what_the_other_end_does_not_know_is_told() {
    require!(Root, Criu);
    let c = counter(&Runtime::hiber(), Bundle::busybox());
    let there = there(Bundle::busybox());
    migrate(&c, &there, &["--compress", "gzip"]).fails("expected auto or zstd or lz4 or none");
    let hello = br#"{"word":"hello","of":{"protocol":6,"program":"other"}}"#;
    let accept = br#"{"word":"accept","of":{"compress":["lz4"],"clock":0}}"#;
    let file = c.bundle().join("says");
    std::fs::write(&file, [frame(b'W', hello), frame(b'W', accept)].concat()).unwrap();
    let command = format!("cat {}; cat >/dev/null", file.display());
    let output = run(migration(&c, &there, &["--compress", "zstd"], &command), b"");
    output.fails("does not know the compression by zstd").exited(1);
    counts_on(&c, count(&c));
    assert_eq!(remembered(c.runtime()).len(), 0);
}

#[test]
fn lengths_that_are_lies_are_refused() {
    require!(Root, Criu);
    let there = there(Bundle::busybox());
    let hello = br#"{"word":"hello","of":{"protocol":6,"program":"liar"}}"#;
    // LZ4: 19 zeros, then 64 KiB of them by the length of one match.
    let bomb = [&[0x1f, 0, 1, 0][..], &[255; 257], &[0, 0x50, 0, 0, 0, 0, 0]].concat();
    for (length, payload, words) in [
        (u32::MAX, &bomb, "4294967295 compressed bytes; at most 1048576 are allowed"),
        (100, &bomb, "cannot be decompressed to the 100 announced"),
        (1 << 20, &bomb, "where 1048576 were announced"),
    ] {
        let packed = [&b"lD"[..], &length.to_le_bytes(), payload].concat();
        let said = [frame(b'W', hello), frame(b'C', &packed)].concat();
        let mut receive = there.runtime().command();
        receive.args(["receive", "--stdio"]);
        run(receive, &said).fails(words).exited(1);
        assert_gone(&there);
    }
}
