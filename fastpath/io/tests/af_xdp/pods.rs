//! The program that interfaces share which are ours alone.

use super::support::{Wire, frame, fresh_netns, ip, up, veth};
use super::{CONFIG, Setup, setup};
use clearway_io::{
    AfXdpPort, AttachMode, Interface, ModeRequest, PodLink, PodProgram, Port, QueueConfig, Steering,
    XdpError, XdpProgram,
};
use std::time::Duration;

/// Slots of the program.
const SLOTS: u32 = 4096;

fn find(name: &str) -> Interface {
    Interface::find(name).expect("interface")
}

/// A veth pair whose near end has this index.
fn veth_at(far: &str, near: &str, index: u32) {
    ip(&format!(
        "link add {near} index {index} numtxqueues 1 numrxqueues 1 type veth peer name {far} numtxqueues 1 numrxqueues 1"
    ));
    up(&[far, near], 1500);
    assert_eq!(find(near).index, index);
}

impl Setup {
    fn port(&mut self, name: &str) -> AfXdpPort {
        let mut port = self.group.open(&find(name), 0, &CONFIG).expect("port");
        port.reclaim(&mut self.pools);
        port
    }

    /// A port that the program serves.
    fn pod(&mut self, program: &PodProgram, name: &str) -> (AfXdpPort, PodLink) {
        let port = self.port(name);
        let link = program.attach(&port, ModeRequest::Auto).expect("attach");
        (port, link.expect("a slot"))
    }

    /// Sends frames of these numbers and receives them.
    #[track_caller]
    fn pass(&mut self, far: &Wire, port: &mut AfXdpPort, numbers: std::ops::Range<u32>) {
        let sent: Vec<_> = numbers.map(|number| frame(number, 100)).collect();
        sent.iter().for_each(|frame| far.send(frame));
        assert!(self.receive_count(port, sent.len()) == sent);
        port.reclaim(&mut self.pools);
    }
}

fn carried(name: &str) -> Option<String> {
    let program = XdpProgram::on_interface(&find(name)).expect("query");
    program.map(|program| program.name)
}

#[test]
fn interfaces_share_a_program_and_no_frame() {
    if !fresh_netns() {
        return;
    }
    let mut setup = setup();
    let program = PodProgram::load().expect("program");
    let names = ["0", "1", "2", "3"].map(|n| (format!("far{n}"), format!("near{n}")));
    let mut ports = Vec::new();
    for (at, (far, near)) in names.iter().enumerate() {
        veth(far, near, 1500);
        // In the driver and in the stack.
        let mode = [ModeRequest::Auto, ModeRequest::Generic][at % 2];
        let config = QueueConfig { mode, ..CONFIG };
        let mut port = setup.group.open(&find(near), 0, &config).expect("port");
        port.reclaim(&mut setup.pools);
        let link = program.attach(&port, mode).expect("attach").expect("a slot");
        let modes = [AttachMode::Native, AttachMode::Generic];
        assert_eq!(link.mode(), Some(modes[at % 2]));
        ports.push((Wire::open(far), port, link));
    }
    let ids: Vec<_> = names
        .iter()
        .map(|(_, near)| XdpProgram::on_interface(&find(near)).expect("query"))
        .collect();
    assert!(ids[0].is_some() && ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    for (number, (far, _, _)) in ports.iter().enumerate() {
        let number = number as u32 * 100;
        (number..number + 50).for_each(|number| far.send(&frame(number, 60)));
    }
    for (number, (_, port, _)) in ports.iter_mut().enumerate() {
        let number = number as u32 * 100;
        let got = setup.receive_count(port, 50);
        let sent: Vec<_> = (number..number + 50).map(|number| frame(number, 60)).collect();
        assert!(got == sent, "port {number}");
    }
    for (_, port, _) in &mut ports {
        assert!(setup.receive_bytes(port, false).is_empty());
    }
    // One goes, the others stay.
    let (_, port, link) = ports.remove(0);
    drop(link);
    assert_eq!(carried("near0"), None);
    drop(port);
    let (far, port, _) = &mut ports[0];
    setup.pass(far, port, 1000..1020);
    drop(ports);
    setup.finish();
}

#[test]
fn interfaces_of_one_slot_have_different_programs() {
    if !fresh_netns() {
        return;
    }
    veth_at("far0", "near0", 77);
    veth_at("far1", "near1", 77 + SLOTS);
    veth_at("far2", "near2", 77 + 2 * SLOTS);
    let mut setup = setup();
    let program = PodProgram::load().expect("program");
    let (mut port0, link0) = setup.pod(&program, "near0");
    let mut port1 = setup.port("near1");
    let refused = program.attach(&port1, ModeRequest::Auto).expect("asked");
    assert!(refused.is_none(), "the slot is taken");
    assert_eq!(carried("near1"), None);
    let mut own = XdpProgram::load(Steering::Exclusive).expect("program");
    own.register(0, port1.socket()).expect("register");
    own.attach(&find("near1"), ModeRequest::Auto, false)
        .expect("attach");
    let (far0, far1) = (Wire::open("far0"), Wire::open("far1"));
    setup.pass(&far0, &mut port0, 0..20);
    setup.pass(&far1, &mut port1, 100..120);
    assert!(setup.receive_bytes(&mut port0, false).is_empty());
    // The slot can be had again.
    drop(link0);
    let (mut port2, _link2) = setup.pod(&program, "near2");
    setup.pass(&Wire::open("far2"), &mut port2, 200..220);
    setup.pass(&far1, &mut port1, 120..140);
    drop((port0, port1, port2));
    setup.finish();
}

#[test]
fn a_wrong_slot_loses_frames_and_leaks_none() {
    if !fresh_netns() {
        return;
    }
    veth_at("far0", "near0", 99);
    veth_at("far1", "near1", 99 + SLOTS);
    let mut setup = setup();
    let program = PodProgram::load().expect("program");
    let (mut port, _link) = setup.pod(&program, "near0");
    // Attached without a slot of its own, so that what is in the map is another's.
    let parked = program.park(&find("near1")).expect("attach");
    let (far0, far1, near1) = (Wire::open("far0"), Wire::open("far1"), Wire::open("near1"));
    (0..50).for_each(|number| far1.send(&frame(number, 60)));
    setup.pass(&far0, &mut port, 100..120);
    assert!(setup.receive_bytes(&mut port, false).is_empty());
    assert_eq!(near1.try_recv(), None, "nor does the host get one");
    drop(parked);
    far1.send(&frame(7, 60));
    assert_eq!(near1.recv(), Some(frame(7, 60)), "frames do get there");
    drop(port);
    setup.finish();
}

#[test]
fn without_a_socket_frames_are_dropped() {
    if !fresh_netns() {
        return;
    }
    veth("far", "near", 1500);
    let mut setup = setup();
    let program = PodProgram::load().expect("program");
    let (port, link) = setup.pod(&program, "near");
    // The link does not keep the socket open.
    drop(port);
    let mut again = setup.port("near");
    let (far, near) = (Wire::open("far"), Wire::open("near"));
    (0..20).for_each(|number| far.send(&frame(number, 60)));
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(near.try_recv(), None);
    assert!(setup.receive_bytes(&mut again, false).is_empty());
    drop(link);
    let link = program.attach(&again, ModeRequest::Auto).expect("attach");
    assert!(link.is_some(), "the slot is free");
    setup.pass(&far, &mut again, 20..40);
    drop(again);
    setup.finish();
}

#[test]
fn links_may_go_after_their_interface_and_on_any_thread() {
    if !fresh_netns() {
        return;
    }
    let mut setup = setup();
    let program = PodProgram::load().expect("program");
    for _ in 0..5 {
        veth_at("far", "near", 4242);
        let (mut port, link) = setup.pod(&program, "near");
        setup.pass(&Wire::open("far"), &mut port, 0..10);
        ip("link del near");
        drop(port);
        // Another interface of the same index comes before the link has gone: there is no slot, and nothing goes wrong.
        veth_at("far", "near", 4242);
        let port = setup.port("near");
        let early = program.attach(&port, ModeRequest::Auto).expect("asked");
        assert!(early.is_none());
        std::thread::spawn(|| drop(link)).join().expect("no panic");
        let late = program.attach(&port, ModeRequest::Auto).expect("attach");
        assert!(late.is_some());
        drop(port);
        ip("link del near");
    }
    // The program goes after its handle.
    veth("far", "near", 1500);
    let (mut port, link) = setup.pod(&program, "near");
    drop(program);
    setup.pass(&Wire::open("far"), &mut port, 0..10);
    drop(link);
    assert_eq!(carried("near"), None);
    drop(port);
    setup.finish();
}

#[test]
fn an_own_program_takes_over_without_a_gap() {
    if !fresh_netns() {
        return;
    }
    veth("far", "near", 1500);
    let mut setup = setup();
    let program = PodProgram::load().expect("program");
    let (mut port, mut link) = setup.pod(&program, "near");
    let far = Wire::open("far");
    let mut sent = 0;
    for round in 0..5 {
        // Frames arrive all the while.
        let done = std::sync::atomic::AtomicBool::new(false);
        let mut own = XdpProgram::load(Steering::Exclusive).expect("program");
        let first = sent;
        let mut got = Vec::new();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                link.hand_over(&mut own).expect("handed over");
                done.store(true, std::sync::atomic::Ordering::Relaxed);
            });
            while !done.load(std::sync::atomic::Ordering::Relaxed) || sent < first + 20 {
                far.send(&frame(sent, 60));
                sent += 1;
                got.extend(setup.receive_count(&mut port, 1));
                port.reclaim(&mut setup.pools);
            }
        });
        let expected: Vec<_> = (first..sent).map(|number| frame(number, 60)).collect();
        assert!(
            got == expected,
            "round {round}: {} of {}",
            got.len(),
            expected.len()
        );
        assert_eq!((link.mode(), own.mode()), (None, Some(AttachMode::Native)));
        assert_eq!(carried("near").as_deref(), Some("clearway"));
        drop(link);
        // It is the own program that has the socket now, and live changes are its.
        setup.pass(&far, &mut port, 500..510);
        own.set_steering(Steering::Shared).expect("set");
        let near = Wire::open("near");
        far.send(&frame(9, 60));
        assert_eq!(near.recv(), Some(frame(9, 60)), "the kernel's");
        drop(own);
        assert_eq!(carried("near"), None);
        link = program
            .attach(&port, ModeRequest::Auto)
            .expect("attach")
            .expect("a slot");
    }
    drop(port);
    setup.finish();
}

#[test]
fn someone_elses_program_is_refused_by_name() {
    if !fresh_netns() {
        return;
    }
    veth("far", "near", 1500);
    let mut setup = setup();
    let mut other = XdpProgram::load(Steering::Exclusive).expect("program");
    other
        .attach(&find("near"), ModeRequest::Auto, false)
        .expect("attach");
    let program = PodProgram::load().expect("program");
    let port = setup.port("near");
    let error = program.attach(&port, ModeRequest::Auto).err().expect("refused");
    assert!(
        matches!(&error, XdpError::Foreign { program, .. } if program.name == "clearway"),
        "{error}"
    );
    assert!(error.to_string().starts_with("near already carries"), "{error}");
    drop(other);
    let link = program.attach(&port, ModeRequest::Auto).expect("attach");
    assert!(link.is_some(), "the refused one has left the slot");
    assert_eq!(carried("near").as_deref(), Some("clearway_pod"));
    // And ours is refused as any other would be, or replaced and given back.
    let mut other = XdpProgram::load(Steering::Exclusive).expect("program");
    let error = other
        .attach(&find("near"), ModeRequest::Auto, false)
        .expect_err("refused");
    assert!(error.to_string().contains("\"clearway_pod\""), "{error}");
    drop((link, port));
    setup.finish();
}

#[test]
fn only_queue_0_is_served() {
    if !fresh_netns() {
        return;
    }
    ip("link add far numtxqueues 2 numrxqueues 2 type veth peer name near numtxqueues 2 numrxqueues 2");
    up(&["far", "near"], 1500);
    let mut setup = setup();
    let program = PodProgram::load().expect("program");
    let mut ports = [0, 1].map(|queue| setup.group.open(&find("near"), queue, &CONFIG).expect("port"));
    ports.iter_mut().for_each(|port| {
        port.reclaim(&mut setup.pools);
    });
    let [zero, one] = &ports;
    assert!(program.attach(one, ModeRequest::Auto).expect("asked").is_none());
    let _link = program
        .attach(zero, ModeRequest::Auto)
        .expect("attach")
        .expect("a slot");
    // What comes to queue 1 is neither queue 0's nor the host's.
    let (far, near) = (Wire::open("far"), Wire::open("near"));
    (0..100).for_each(|number| far.send(&frame(number, 60)));
    std::thread::sleep(Duration::from_millis(100));
    assert!(setup.receive_bytes(&mut ports[1], false).is_empty());
    assert_eq!(near.try_recv(), None);
    drop(ports);
    setup.finish();
}
