//! An interface that is shared with the kernel: whose is which frame.

use crate::support::{PATIENCE, Wire, fresh_netns, ip, link, veth, within};
use crate::{CONFIG, counted, setup};
use clearway_io::{
    AttachMode, Interface, ModeRequest, Port, Steering, SteeringCounts, VlanFilter, VtepFilter, XdpProgram,
};
use std::net::IpAddr;

/// Internet checksum, RFC 1071.
fn checksum(bytes: &[u8]) -> [u8; 2] {
    let sum: u32 = bytes
        .chunks(2)
        .map(|c| u32::from(u16::from_be_bytes([c[0], *c.get(1).unwrap_or(&0)])))
        .sum();
    (!((sum & 0xffff) + (sum >> 16)) as u16).to_be_bytes()
}

struct Crafted {
    destination: [u8; 6],
}

impl Crafted {
    fn ethernet(&self, tag: Option<(u16, u16)>, ethertype: u16, payload: &[u8]) -> Vec<u8> {
        let mut bytes = [&self.destination[..], &[2, 0, 0, 0, 0, 1]].concat();
        if let Some((tpid, vid)) = tag {
            bytes.extend([tpid.to_be_bytes(), vid.to_be_bytes()].concat());
        }
        bytes.extend(ethertype.to_be_bytes());
        bytes.extend(payload);
        bytes.resize(bytes.len().max(60), 0);
        bytes
    }

    /// IPv4 from 10.0.0.1 to 10.0.0.2; `options` are whole words.
    fn ipv4(&self, protocol: u8, fragment: u16, options: &[u8], payload: &[u8]) -> Vec<u8> {
        let header = 20 + options.len();
        let mut ip = vec![0x40 | (header / 4) as u8, 0];
        ip.extend(((header + payload.len()) as u16).to_be_bytes());
        ip.extend([0, 1]);
        ip.extend(fragment.to_be_bytes());
        ip.extend([64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        ip.extend(options);
        let sum = checksum(&ip);
        ip[10..12].copy_from_slice(&sum);
        ip.extend(payload);
        ip
    }

    fn ipv6(&self, next: u8, payload: &[u8]) -> Vec<u8> {
        let mut ip = vec![0x60, 0, 0, 0];
        ip.extend((payload.len() as u16).to_be_bytes());
        ip.extend([next, 64]);
        ip.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        ip.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
        ip.extend(payload);
        ip
    }
}

fn udp(port: u16) -> Vec<u8> {
    let mut bytes = [
        40000u16.to_be_bytes(),
        port.to_be_bytes(),
        16u16.to_be_bytes(),
        [0, 0],
    ]
    .concat();
    bytes.extend([8, 0, 0, 0, 0, 0, 1, 0]);
    bytes
}

fn mac(interface: &str) -> [u8; 6] {
    let text = link(interface);
    let mac = text
        .split("link/ether ")
        .nth(1)
        .and_then(|rest| rest.split(' ').next())
        .expect("a MAC");
    let bytes: Vec<u8> = mac
        .split(':')
        .map(|byte| u8::from_str_radix(byte, 16).expect("hex"))
        .collect();
    bytes.try_into().expect("six bytes")
}

#[test]
fn a_shared_interface_gives_us_our_frames_and_the_kernel_the_rest() {
    if !fresh_netns() {
        return;
    }
    veth("far", "near", 1500);
    ip("addr add 10.0.0.2/24 dev near");
    ip("neigh add 10.0.0.1 lladdr 02:00:00:00:00:01 dev near");
    let mut setup = setup();
    let near = Interface::find("near").expect("near");
    let mut port = setup.group.open(&near, 0, &CONFIG).expect("port");
    port.reclaim(&mut setup.pools);
    let mut program = XdpProgram::load(Steering::Shared).expect("program");
    program.register(0, port.socket()).expect("register");
    let vtep = |address: &str, port, vid| VtepFilter {
        address: address.parse::<IpAddr>().expect("address"),
        port,
        vid,
    };
    let vteps = [
        vtep("10.0.0.2", 4789, None),
        vtep("fd00::2", 4789, None),
        vtep("10.0.0.2", 8472, Some(7)),
    ];
    program.set_vteps(&vteps).expect("vteps");
    let q = |vid| VlanFilter { tpid: 0x8100, vid };
    let ad = |vid| VlanFilter { tpid: 0x88a8, vid };
    program.set_vlans(&[q(100), ad(300)]).expect("vlans");
    assert_eq!(
        program.attach(&near, ModeRequest::Auto, false).expect("attach"),
        AttachMode::Native
    );

    let far = Wire::open("far");
    let craft = Crafted {
        destination: mac("near"),
    };
    const UDP: u8 = 17;
    let ours = [
        craft.ethernet(None, 0x0800, &craft.ipv4(UDP, 0, &[], &udp(4789))),
        craft.ethernet(None, 0x0800, &craft.ipv4(UDP, 0x4000, &[1; 40], &udp(4789))),
        craft.ethernet(None, 0x86dd, &craft.ipv6(UDP, &udp(4789))),
        craft.ethernet(Some((0x8100, 0xe000 | 100)), 0x88b5, &[]),
        craft.ethernet(Some((0x88a8, 300)), 0x8100, &[0, 5, 8, 0]),
        craft.ethernet(Some((0x8100, 7)), 0x0800, &craft.ipv4(UDP, 0, &[], &udp(8472))),
    ];
    let mut bad_version = craft.ipv4(UDP, 0, &[], &udp(4789));
    bad_version[0] = 0x55;
    let mut short_header = craft.ipv4(UDP, 0, &[], &udp(4789));
    short_header[0] = 0x44;
    let kernels = [
        craft.ethernet(None, 0x0800, &craft.ipv4(UDP, 0, &[], &udp(4790))),
        craft.ethernet(None, 0x0800, &craft.ipv4(UDP, 0x2000, &[], &udp(4789))),
        craft.ethernet(None, 0x0800, &craft.ipv4(UDP, 0x0001, &[], &udp(4789))),
        craft.ethernet(None, 0x0800, &craft.ipv4(6, 0, &[], &udp(4789))),
        craft.ethernet(None, 0x86dd, &craft.ipv6(0, &udp(4789))),
        craft.ethernet(None, 0x86dd, &craft.ipv6(44, &udp(4789))),
        craft.ethernet(Some((0x8100, 200)), 0x88b5, &[]),
        craft.ethernet(Some((0x8100, 7)), 0x0800, &craft.ipv4(UDP, 0, &[], &udp(4789))),
        craft.ethernet(Some((0x8100, 8)), 0x8100, &[0, 100, 8, 0]),
        // The right VIDs under the wrong TPIDs.
        craft.ethernet(Some((0x8100, 300)), 0x88b5, &[]),
        craft.ethernet(Some((0x88a8, 100)), 0x88b5, &[]),
        craft.ethernet(Some((0x88a8, 7)), 0x0800, &craft.ipv4(UDP, 0, &[], &udp(8472))),
        craft.ethernet(None, 0x0806, &[0; 28]),
    ];
    // Cut short behind the sixty bytes that a crafted frame is padded to: sent as they are.
    let unparsable = [
        craft.ethernet(None, 0x0800, &bad_version),
        craft.ethernet(None, 0x0800, &short_header),
        craft.ethernet(None, 0x0800, &craft.ipv4(UDP, 0, &[], &udp(4789)))[..30].to_vec(),
        craft.ethernet(None, 0x0800, &craft.ipv4(UDP, 0, &[], &udp(4789)))[..40].to_vec(),
        craft.ethernet(None, 0x86dd, &craft.ipv6(UDP, &udp(4789)))[..60].to_vec(),
        craft.ethernet(Some((0x8100, 100)), 0x88b5, &[])[..16].to_vec(),
    ];
    for frame in ours.iter().chain(&kernels).chain(&unparsable) {
        far.send(frame);
    }
    assert_eq!(setup.receive_count(&mut port, ours.len()), ours);
    counted(&program, 25);
    assert_eq!(setup.receive_bytes(&mut port, false), Vec::<Vec<u8>>::new());
    let counts = SteeringCounts {
        redirected: 6,
        passed: 13,
        unparsable: 6,
        dropped: 0,
    };
    assert_eq!(program.counts().expect("counts"), counts);

    // The kernel still answers a ping.
    let mut echo = vec![8, 0, 0, 0, 0, 9, 0, 1];
    let sum = checksum(&echo);
    echo[2..4].copy_from_slice(&sum);
    far.send(&craft.ethernet(None, 0x0800, &craft.ipv4(1, 0, &[], &echo)));
    let is_reply =
        |frame: &Vec<u8>| frame[12..14] == [8, 0] && frame[23] == 1 && frame[34] == 0 && frame[39] == 9;
    let reply = within(PATIENCE, || far.try_recv().filter(is_reply));
    assert!(reply.is_some(), "no echo reply");

    // Live changes: an entry that goes is the kernel's at once, one that stays is ours throughout.
    program.set_vlans(&[ad(300), q(200)]).expect("vlans");
    program.set_vteps(&vteps[..1]).expect("vteps");
    for frame in ours.iter().chain(&kernels) {
        far.send(frame);
    }
    let now = [
        ours[0].clone(),
        ours[1].clone(),
        ours[4].clone(),
        kernels[6].clone(),
    ];
    assert_eq!(setup.receive_count(&mut port, now.len()), now);
    counted(&program, 25 + 1 + 19);
    // Without a socket the frames are the kernel's, and after a change of steering nobody's.
    drop(port);
    far.send(&ours[0]);
    counted(&program, 25 + 1 + 19 + 1);
    program.set_steering(Steering::Exclusive).expect("steering");
    far.send(&ours[0]);
    counted(&program, 25 + 1 + 19 + 2);
    let passed = 13 + 1 + (ours.len() + kernels.len() - now.len()) as u64 + 1;
    let counts = SteeringCounts {
        redirected: 6 + 4,
        passed,
        unparsable: 6,
        dropped: 1,
    };
    assert_eq!(program.counts().expect("counts"), counts);
    drop(program);
    setup.finish();
}
