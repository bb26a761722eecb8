//! Objects from the kernel's answers and from forged files.

use super::*;

/// A message of a class: its fixed part, and attributes.
fn take(class: &str, head: &[u8], all: &[(u16, &[u8])]) -> std::result::Result<Option<Object>, String> {
    let class = CLASSES.iter().find(|c| c.name == class).unwrap();
    let attributes = all.iter().map(|(kind, value)| (*kind, value.to_vec())).collect();
    class.take(&Object { head: head.to_vec(), attributes }.bytes()).unwrap()
}

/// struct rtmsg with a table, a protocol and flags.
fn rtmsg(table: u8, protocol: u8, flags: u8) -> [u8; 12] {
    [AF_INET, 16, 0, 0, table, protocol, 0, 1, flags, 0, 0, 0]
}

#[test]
fn routes_of_others_are_left_to_them() {
    let oif = (RTA_OIF, &[3, 0, 0, 0][..]);
    assert_eq!(take("routes", &rtmsg(254, 3, 0), &[oif]), Ok(None), "the main table is the caller's");
    assert_eq!(take("routes", &rtmsg(100, KERNEL, 0), &[oif]), Ok(None), "the kernel's");
    let kept = take("routes", &rtmsg(100, 3, 16 | 4), &[oif, (12, &[0; 32])]).unwrap().unwrap();
    assert_eq!((kept.u32_at(8), kept.attributes.len()), (ONLINK, 1), "without what is only told");
    // The long form of a table's number counts.
    assert_eq!(take("routes", &rtmsg(252, 3, 0), &[(RTA_TABLE, &254u32.to_ne_bytes())]), Ok(None));
}

#[test]
fn a_route_by_an_object_says_nothing_else() {
    let all: [(u16, &[u8]); 4] = [
        (1, &[10, 0, 0, 0]),
        (RTA_NH_ID, &[5, 0, 0, 0]),
        (RTA_OIF, &[3, 0, 0, 0]),
        (RTA_GATEWAY, &[10, 0, 0, 2]),
    ];
    let kept = take("routes", &rtmsg(254, 3, 0), &all).unwrap().unwrap();
    assert_eq!(kept.attributes.iter().map(kind_of).collect::<Vec<_>>(), [1, RTA_NH_ID]);
}

#[test]
fn what_is_not_known_is_strange() {
    // RTA_ENCAP, which may name a descriptor of the one who asks
    let encapsulated = take("routes", &rtmsg(100, 3, 0), &[(22, &[0; 4])]).unwrap_err();
    assert!(encapsulated.contains("unknown kind 22"), "{encapsulated}");
    let hop = [&[16, 0, 0, 0, 3, 0, 0, 0][..], &[8, 0, 22, 0, 0, 0, 0, 0]].concat();
    take("routes", &rtmsg(100, 3, 0), &[(RTA_MULTIPATH, &hop)]).unwrap_err();
    let mut tcmsg = [0; 20];
    assert_eq!(take("qdiscs", &tcmsg, &[(TCA_KIND, b"cake\0")]), Ok(None), "the kernel's have no number");
    tcmsg[8] = 1;
    let kind = take("qdiscs", &tcmsg, &[(TCA_KIND, b"cake\0")]).unwrap_err();
    assert!(kind.contains("is of kind cake"), "{kind}");
    take("qdiscs", &tcmsg, &[(TCA_KIND, b"tbf\0"), (8, &[0; 4])]).unwrap_err();
}

#[test]
fn a_version_of_htb_is_what_the_kernel_wants_to_be_told() {
    let mut tcmsg = [0; 20];
    tcmsg[8] = 1;
    let init = [0x0003_0011_u32, 10, 0x10, 0, 0].map(u32::to_ne_bytes).concat();
    let options = write(&[(TCA_HTB_INIT, init)]);
    let kept = take("qdiscs", &tcmsg, &[(TCA_KIND, b"htb\0"), (TCA_OPTIONS, &options)]).unwrap().unwrap();
    let inner = attributes(kept.attribute(TCA_OPTIONS).unwrap()).unwrap();
    assert_eq!(find(&inner, TCA_HTB_INIT).unwrap()[..4], 3u32.to_ne_bytes());
    // A stored object is taken unchanged.
    let class = CLASSES.iter().find(|c| c.name == "qdiscs").unwrap();
    assert_eq!(class.take(&kept.bytes()).unwrap(), Ok(Some(kept)));
}

#[test]
fn learned_and_multicast_neighbours_come_by_themselves() {
    let ndmsg = |family: u8, state: u8, flags: u8| [family, 0, 0, 0, 3, 0, 0, 0, state, 0, flags, 1];
    let (unicast, multicast) = ([2, 0, 0, 0, 0, 1], [0x33, 0x33, 0, 0, 0, 1]);
    let is_kept = |class, head: [u8; 12], all: &[(u16, &[u8])]| take(class, &head, all).unwrap().is_some();
    assert!(is_kept("neighbours", ndmsg(AF_INET, 0x80, 0), &[(NDA_LLADDR, &unicast)]), "permanent");
    assert!(is_kept("neighbours", ndmsg(AF_INET6, 0x40, 0), &[(NDA_LLADDR, &unicast)]), "noarp");
    assert!(!is_kept("neighbours", ndmsg(AF_INET6, 0x40, 0), &[(NDA_LLADDR, &multicast)]));
    assert!(!is_kept("neighbours", ndmsg(AF_INET, 2, 0), &[(NDA_LLADDR, &unicast)]), "reachable");
    let master = |index: u32| (NDA_MASTER, index.to_ne_bytes());
    let (of_bridge, bridges) = (master(4), master(3));
    for (state, (kind, bridge), flags) in [(0x40, of_bridge, NTF_MASTER), (0x40, bridges, NTF_SELF)] {
        let head = ndmsg(AF_BRIDGE, state, 0);
        let kept = take("stations", &head, &[(NDA_LLADDR, &unicast), (kind, &bridge)]).unwrap().unwrap();
        assert_eq!((kept.head[10], kept.attributes.len()), (flags, 1));
    }
    assert!(!is_kept(
        "stations",
        ndmsg(AF_BRIDGE, 2, 0),
        &[(NDA_LLADDR, &unicast), (of_bridge.0, &of_bridge.1)]
    ));
}
