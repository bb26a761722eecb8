//! A real server, with a client that stays connected over the container's loopback.

use crate::{Network, sleep_and_wake};
use hiber_tests::prelude::*;

/// One line of a reply, or of `info`.
fn field(text: &str, name: &str) -> String {
    let line = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_default().trim().to_owned()
}

#[test]
fn redis_in_a_network_of_its_own() {
    // runc fails here: it empties the network namespace, and so leaves the loopback down
    require!(Root, Criu, Redis);
    redis_keeps_its_keys_its_identity_and_its_connected_client(Bundle::redis());
}

#[test]
fn redis_in_a_joined_network() {
    require!(Root, Criu, Redis);
    let network = Network::new();
    let bundle = Bundle::redis().namespace("network", Some(&network.path()));
    redis_keeps_its_keys_its_identity_and_its_connected_client(bundle);
}

#[track_caller]
fn redis_keeps_its_keys_its_identity_and_its_connected_client(bundle: Bundle) {
    // nc is a client whose one connection lives as long as the container
    let script = "redis-server --bind 127.0.0.1 --save '' --appendonly no & \
                  until redis-cli ping; do sleep 0.05; done; mkfifo /run/in; exec 3<>/run/in; \
                  nc 127.0.0.1 6379 <&3 >/run/replies & wait";
    let c = Runtime::hiber().container(bundle.shell(script));
    c.run_detached().ok();
    let replies = || std::fs::read_to_string(c.bundle().rootfs().join("run/replies")).unwrap_or_default();
    wait_for("the client's fifo", || c.bundle().rootfs().join("run/in").exists());
    c.sh("echo 'INCR visits' >/run/in");
    wait_for("the first reply", || replies() == ":1\r\n");
    let keys: String = (0..1000).map(|i| format!("SET key:{i} value:{}\n", i * i)).collect();
    let mut write = c.command("exec", &[]);
    write.arg("redis-cli");
    hiber_tests::command::run(write, keys.as_bytes()).ok();
    let before = c.exec(&["redis-cli", "info", "all"]).ok().to_owned();

    sleep_and_wake(&c, &["--tcp-established"], &["--tcp-established"]);

    let after = c.exec(&["redis-cli", "info", "all"]).ok().to_owned();
    for same in ["run_id", "process_id", "tcp_port"] {
        assert_eq!(field(&after, same), field(&before, same), "{same}");
    }
    let number = |text: &str, name: &str| field(text, name).parse::<u64>().unwrap();
    assert!(number(&after, "total_connections_received") > number(&before, "total_connections_received"));
    assert!(number(&after, "uptime_in_seconds") >= number(&before, "uptime_in_seconds"));
    c.sh("echo 'INCR visits' >/run/in");
    wait_for("the reply over the old connection", || replies() == ":1\r\n:2\r\n");
    let wrong = "for i = 0, 999 do if redis.call('GET', 'key:' .. i) ~= 'value:' .. string.format('%d', i * i) \
                 then return 'key:' .. i end end return 'none'";
    assert_eq!(c.exec(&["redis-cli", "eval", wrong, "0"]).ok(), "none");
    c.delete(&["--force"]).ok();
    c.assert_clean();
}
