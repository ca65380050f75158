//! AF_XDP between veths: what the contract of `Port` does not say. Needs root; each test has a network
//! namespace of its own.

mod pods;
mod shared;
#[path = "../support/mod.rs"]
mod support;

use clearway_io::{
    AfXdpPort, AttachMode, BusyPoll, Fault, Frame, FrameBatch, HugePages, Interface, ModeRequest, Parked,
    PodLink, PodProgram, PoolSet, Port, QueueConfig, RingSizes, Steering, SteeringCounts, Umem, UmemGeometry,
    UmemGroup, XdpError, XdpProgram, XskError,
};
use std::os::fd::AsFd;
use std::time::Duration;
use support::{PATIENCE, Wire, frame, fresh_netns, ip, readable, veth, within};

const CONFIG: QueueConfig = QueueConfig {
    rings: RingSizes { rx: 256, tx: 256 },
    mode: ModeRequest::Auto,
    busy_poll: None,
    tx_budget: 256,
};

struct Setup {
    umem: Umem,
    pools: PoolSet,
    group: UmemGroup,
}

fn setup() -> Setup {
    let geometry = UmemGeometry {
        chunk_size: 2048,
        chunks: 2048,
        huge_pages: HugePages::Off,
    };
    let umem = Umem::new(geometry).expect("memory");
    let mut pools = PoolSet::new();
    pools.add(&umem);
    Setup {
        group: UmemGroup::new(umem.clone()),
        umem,
        pools,
    }
}

impl Setup {
    /// A port on queue 0 with a program that gives it everything.
    fn open(&mut self, name: &str) -> (AfXdpPort, XdpProgram) {
        let interface = Interface::find(name).expect("interface");
        let mut port = self.group.open(&interface, 0, &CONFIG).expect("port");
        let mut program = XdpProgram::load(Steering::Exclusive).expect("program");
        program.register(0, port.socket()).expect("register");
        program
            .attach(&interface, ModeRequest::Auto, false)
            .expect("attach");
        port.reclaim(&mut self.pools);
        (port, program)
    }

    /// The frames that wait, waited for up to a second if `some` are expected.
    fn receive(&mut self, port: &mut AfXdpPort, some: bool) -> Vec<Frame> {
        let time = if some {
            PATIENCE
        } else {
            Duration::from_millis(100)
        };
        let mut batch = FrameBatch::new();
        within(time, || {
            (port.rx_batch(&mut self.pools, &mut batch) > 0).then_some(())
        });
        batch.into_iter().collect()
    }

    /// Takes frames until there are `count`.
    fn receive_count(&mut self, port: &mut AfXdpPort, count: usize) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        while all.len() < count {
            let more = self.receive_bytes(port, true);
            assert!(!more.is_empty(), "only {} of {count} arrived", all.len());
            all.extend(more);
        }
        all
    }

    /// Takes what waits and gives its bytes.
    fn receive_bytes(&mut self, port: &mut AfXdpPort, some: bool) -> Vec<Vec<u8>> {
        let frames = self.receive(port, some);
        let bytes = frames
            .iter()
            .map(|f| f.segments().flatten().copied().collect())
            .collect();
        frames.into_iter().for_each(|frame| self.pools.free(frame));
        bytes
    }

    fn finish(self) {
        drop((self.group, self.pools));
        assert_eq!(self.umem.depot_chunks(), self.umem.chunks(), "chunks are lost");
    }
}

#[test]
fn frames_move_between_ports_of_a_group_without_a_copy() {
    if !fresh_netns() {
        return;
    }
    veth("far0", "near0", 1500);
    veth("far1", "near1", 1500);
    let mut setup = setup();
    let ((mut port0, _program0), (mut port1, _program1)) = (setup.open("near0"), setup.open("near1"));
    assert_eq!(setup.group.sockets(), 2);
    assert_eq!(setup.group.zero_copy(), Some(false), "veth can't");
    let (far0, far1) = (Wire::open("far0"), Wire::open("far1"));
    for number in 0..100 {
        far0.send(&frame(number, 200));
        let mut frames = setup.receive(&mut port0, true);
        assert_eq!(frames.len(), 1);
        // No free chunk is left, so a copy would fail.
        let hoard: Vec<Frame> = std::iter::from_fn(|| setup.pools.alloc(setup.umem.id())).collect();
        assert_eq!(port1.tx_batch(&mut setup.pools, &mut frames).packets, 1);
        hoard.into_iter().for_each(|frame| setup.pools.free(frame));
        assert_eq!(far1.recv().as_deref(), Some(&frame(number, 200)[..]));
        port0.reclaim(&mut setup.pools);
        port1.reclaim(&mut setup.pools);
    }
    // Any bound socket serves as the group's reference: the first may go.
    port0.close();
    let (port0, _program) = (
        setup
            .group
            .open(&Interface::find("near0").expect("near0"), 0, &CONFIG),
        (),
    );
    assert_eq!(setup.group.sockets(), 2);
    drop((port0, port1));
    setup.finish();
}

#[test]
fn a_queue_can_be_opened_again_at_once_and_by_one_only() {
    if !fresh_netns() {
        return;
    }
    veth("far", "near", 1500);
    let mut setup = setup();
    let near = Interface::find("near").expect("near");
    for _ in 0..20 {
        setup
            .group
            .open(&near, 0, &CONFIG)
            .expect("the last socket has just closed")
            .close();
        assert_eq!(setup.umem.depot_chunks() + setup.pools.chunks(), 2048);
    }
    let port = setup.group.open(&near, 0, &CONFIG).expect("port");
    let mut other = UmemGroup::new(self::setup().umem);
    let error = other.open(&near, 0, &CONFIG).err().expect("the queue is taken");
    assert_eq!(error.errno(), Some(libc::EBUSY));
    assert!(error.to_string().contains("near queue 0"), "{error}");
    let error = setup
        .group
        .open(&near, 7, &CONFIG)
        .err()
        .expect("there is one queue");
    assert_eq!(error.errno(), Some(libc::EINVAL), "{error}");
    drop(port);
    setup.finish();
}

#[test]
fn the_queues_of_an_interface_are_ports_of_their_own() {
    if !fresh_netns() {
        return;
    }
    ip("link add far numtxqueues 2 numrxqueues 2 type veth peer name near numtxqueues 2 numrxqueues 2");
    support::up(&["far", "near"], 1500);
    let mut setup = setup();
    let near = Interface::find("near").expect("near");
    let mut program = XdpProgram::load(Steering::Exclusive).expect("program");
    let mut ports = [0, 1].map(|queue| setup.group.open(&near, queue, &CONFIG).expect("port"));
    for port in &mut ports {
        port.reclaim(&mut setup.pools);
        program
            .register(port.report().queue, port.socket())
            .expect("register");
    }
    program.attach(&near, ModeRequest::Auto, false).expect("attach");
    let far = Wire::open("far");
    (0..50).for_each(|number| far.send(&frame(number, 60)));
    counted(&program, 50);
    let mut got: Vec<_> = ports
        .iter_mut()
        .flat_map(|port| setup.receive_bytes(port, false))
        .collect();
    got.sort();
    let mut sent: Vec<_> = (0..50).map(|number| frame(number, 60)).collect();
    sent.sort();
    assert!(got == sent, "{} of 50 arrived", got.len());
    for (number, port) in ports.iter_mut().enumerate() {
        let bytes = frame(number as u32, 60);
        let mut frames = vec![setup.pools.frame_from(setup.umem.id(), &bytes).expect("chunk")];
        assert_eq!(port.tx_batch(&mut setup.pools, &mut frames).packets, 1);
        assert_eq!(far.recv(), Some(bytes));
    }
    drop(ports);
    setup.finish();
}

/// Ports move to workers, the rest between control threads.
#[test]
fn everything_can_change_threads() {
    fn is_send<T: Send>() {}
    is_send::<AfXdpPort>();
    is_send::<UmemGroup>();
    is_send::<XdpProgram>();
    is_send::<PodProgram>();
    is_send::<PodLink>();
    is_send::<Parked>();
    is_send::<XskError>();
    is_send::<XdpError>();
}

#[test]
fn modes_that_are_forced_and_impossible_are_refused() {
    if !fresh_netns() {
        return;
    }
    veth("far", "near", 1500);
    let mut setup = setup();
    let near = Interface::find("near").expect("near");
    let zero_copy = QueueConfig {
        mode: ModeRequest::ZeroCopy,
        ..CONFIG
    };
    let error = setup.group.open(&near, 0, &zero_copy).err().expect("veth can't");
    assert_eq!(error.errno(), Some(libc::EOPNOTSUPP), "{error}");
    let port = setup.group.open(&near, 0, &CONFIG).expect("port");
    let error = setup
        .group
        .open(&near, 0, &zero_copy)
        .err()
        .expect("the group copies");
    assert!(matches!(error, XskError::GroupMode { .. }), "{error}");
    let rings = QueueConfig {
        rings: RingSizes { rx: 100, tx: 256 },
        ..CONFIG
    };
    assert!(matches!(
        setup.group.open(&near, 0, &rings),
        Err(XskError::RingSize { size: 100, .. })
    ));
    drop(port);
    setup.finish();
}

#[test]
fn a_deleted_interface_faults_the_port_and_a_new_one_is_opened() {
    if !fresh_netns() {
        return;
    }
    let mut setup = setup();
    for round in 0..2 {
        veth("far", "near", 1500);
        let (mut port, program) = setup.open("near");
        Wire::open("far").send(&frame(round, 60));
        assert_eq!(setup.receive_bytes(&mut port, true), [frame(round, 60)]);
        assert_eq!((port.rx_lost().missed, port.fault()), (0, None));
        ip("link del near");
        let mut frames = vec![
            setup
                .pools
                .frame_from(setup.umem.id(), &frame(0, 60))
                .expect("chunk"),
        ];
        if round == 0 {
            port.tx_batch(&mut setup.pools, &mut frames);
        } else {
            // Without traffic the once-a-second call finds out.
            port.rx_lost();
        }
        let expected = Fault(format!(
            "near queue 0: {}: the interface is gone",
            if round == 0 { "sending" } else { "receiving" }
        ));
        assert_eq!(port.fault(), Some(&expected));
        let before = frames.len();
        assert_eq!(port.tx_batch(&mut setup.pools, &mut frames), Default::default());
        assert_eq!(frames.len(), before, "a faulty port takes nothing");
        assert!(setup.receive(&mut port, false).is_empty() && port.wait_fd().is_none());
        frames.into_iter().for_each(|frame| setup.pools.free(frame));
        drop((port, program));
    }
    setup.finish();
}

#[test]
fn an_interface_that_is_down_faults_the_port() {
    if !fresh_netns() {
        return;
    }
    veth("far", "near", 1500);
    let mut setup = setup();
    let (mut port, _program) = setup.open("near");
    ip("link set near down");
    port.rx_lost();
    assert_eq!(
        port.fault(),
        Some(&Fault("near queue 0: receiving: the interface is down".into()))
    );
    drop(port);
    setup.finish();
}

/// On a veth the socket never learns which NAPI to poll (docs/decisions/0002), so this shows that asking for it
/// does no harm and that the port says so; drivers' NAPI is polled in the tests with QEMU.
#[test]
fn busy_polling_without_a_napi_to_poll_does_no_harm() {
    if !fresh_netns() {
        return;
    }
    veth("far", "near", 1500);
    let mut setup = setup();
    let near = Interface::find("near").expect("near");
    let config = QueueConfig {
        busy_poll: Some(BusyPoll {
            micros: 20,
            budget: 64,
        }),
        ..CONFIG
    };
    let mut port = setup.group.open(&near, 0, &config).expect("port");
    let mut program = XdpProgram::load(Steering::Exclusive).expect("program");
    program.register(0, port.socket()).expect("register");
    program.attach(&near, ModeRequest::Auto, false).expect("attach");
    port.reclaim(&mut setup.pools);
    assert_eq!(port.napi_id(), None, "nothing was received yet");
    let far = Wire::open("far");
    let mut got = Vec::new();
    for number in 0..50 {
        far.send(&frame(number, 60));
        got.extend(setup.receive_bytes(&mut port, true));
        port.reclaim(&mut setup.pools);
    }
    assert!(
        got == (0..50).map(|number| frame(number, 60)).collect::<Vec<_>>(),
        "{} arrived",
        got.len()
    );
    drop((port, program));
    setup.finish();
}

#[test]
fn a_short_frame_is_not_sent_and_costs_no_chunk() {
    if !fresh_netns() {
        return;
    }
    veth("far", "near", 1500);
    let mut setup = setup();
    let (mut port, _program) = setup.open("near");
    let far = Wire::open("far");
    let mut frames: Vec<Frame> = [&frame(0, 13 + 5)[..13], &frame(1, 60)]
        .map(|bytes| setup.pools.frame_from(setup.umem.id(), bytes).expect("chunk"))
        .into();
    let counts = port.tx_batch(&mut setup.pools, &mut frames);
    assert_eq!((counts.packets, counts.bytes, counts.unsendable), (1, 60, 1));
    assert_eq!(far.recv(), Some(frame(1, 60)));
    drop(port);
    setup.finish();
}

#[test]
fn a_foreign_program_is_refused_by_name_or_replaced_and_given_back() {
    if !fresh_netns() {
        return;
    }
    veth("far", "near", 1500);
    let near = Interface::find("near").expect("near");
    assert_eq!(XdpProgram::on_interface(&near).expect("query"), None);
    // Someone else's, held by a link.
    let mut other = XdpProgram::load(Steering::Exclusive).expect("program");
    assert_eq!(
        other.attach(&near, ModeRequest::Auto, false).expect("attach"),
        AttachMode::Native
    );
    let theirs = XdpProgram::on_interface(&near)
        .expect("query")
        .expect("a program");
    assert_eq!(theirs.name, "clearway");
    let mut ours = XdpProgram::load(Steering::Exclusive).expect("program");
    let error = ours
        .attach(&near, ModeRequest::Auto, false)
        .expect_err("must be refused");
    assert!(
        matches!(&error, XdpError::Foreign { program, .. } if *program == theirs),
        "{error}"
    );
    let expected = format!(
        "near already carries the XDP program \"clearway\" (id {})",
        theirs.id
    );
    assert!(error.to_string().starts_with(&expected), "{error}");
    assert_eq!(ours.mode(), None);
    ours.attach(&near, ModeRequest::Auto, true).expect("replace");
    assert_eq!(ours.replaced(), std::slice::from_ref(&theirs));
    let now = XdpProgram::on_interface(&near)
        .expect("query")
        .expect("a program");
    assert_ne!(now.id, ours.replaced()[0].id);
    drop(ours);
    assert_eq!(
        XdpProgram::on_interface(&near).expect("query"),
        Some(theirs.clone()),
        "it goes with its link, and gives back what it replaced"
    );
    let [(_, program), ..] = other.descriptors();
    let netlink = libbpf_rs::Xdp::new(program);
    netlink
        .detach(near.index as i32, libbpf_rs::XdpFlags::DRV_MODE)
        .expect("detach");
    assert_eq!(XdpProgram::on_interface(&near).expect("query"), None);
    // Someone else's, attached through netlink, in generic mode.
    netlink
        .attach(near.index as i32, libbpf_rs::XdpFlags::SKB_MODE)
        .expect("attach");
    let mut ours = XdpProgram::load(Steering::Exclusive).expect("program");
    let error = ours
        .attach(&near, ModeRequest::Auto, false)
        .expect_err("must be refused");
    assert!(matches!(&error, XdpError::Foreign { .. }), "{error}");
    assert_eq!(
        ours.attach(&near, ModeRequest::Generic, true).expect("replace"),
        AttachMode::Generic
    );
    assert_eq!(ours.mode(), Some(AttachMode::Generic));
    drop(ours);
    assert_eq!(XdpProgram::on_interface(&near).expect("query"), Some(theirs));
}

/// Waits until the program has seen so many frames.
fn counted(program: &XdpProgram, frames: u64) {
    let all = || {
        let SteeringCounts {
            redirected,
            passed,
            unparsable,
            dropped,
        } = program.counts().expect("counts");
        redirected + passed + unparsable + dropped
    };
    within(PATIENCE, || (all() >= frames).then_some(()));
}

#[test]
fn the_link_outlives_the_program_handle_if_it_was_duplicated() {
    if !fresh_netns() {
        return;
    }
    veth("far", "near", 1500);
    let near = Interface::find("near").expect("near");
    let mut program = XdpProgram::load(Steering::Exclusive).expect("program");
    program.attach(&near, ModeRequest::Auto, false).expect("attach");
    let link = program.link().expect("a link").try_clone_to_owned().expect("dup");
    drop(program);
    assert!(XdpProgram::on_interface(&near).expect("query").is_some());
    drop(link);
    assert_eq!(XdpProgram::on_interface(&near).expect("query"), None);
}

#[test]
fn a_queue_beyond_the_map_is_refused() {
    if !fresh_netns() {
        return;
    }
    let program = XdpProgram::load(Steering::Shared).expect("program");
    let error = program
        .register(256, std::io::stderr().as_fd())
        .expect_err("no room");
    assert!(matches!(error, XdpError::Queue { queue: 256 }), "{error}");
}

#[test]
fn frames_that_do_not_fit_are_counted_as_missed() {
    if !fresh_netns() {
        return;
    }
    veth("far", "near", 1500);
    let mut setup = setup();
    let (mut port, program) = setup.open("near");
    let far = Wire::open("far");
    // One after another: a veth's own ring holds 256 frames only.
    for number in 0..300 {
        far.send(&frame(number, 60));
        counted(&program, u64::from(number) + 1);
    }
    assert!(readable(port.wait_fd().expect("can be slept on"), PATIENCE));
    // 256 chunks were lent; nothing was given back meanwhile.
    let got = setup.receive_count(&mut port, 256);
    assert!(
        got == (0..256).map(|number| frame(number, 60)).collect::<Vec<_>>(),
        "{} arrived",
        got.len()
    );
    assert!(setup.receive_bytes(&mut port, false).is_empty());
    assert_eq!(port.rx_lost().missed, 300 - 256);
    drop(port);
    setup.finish();
}
