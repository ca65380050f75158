//! TAPs: what the contract of `Port` does not say. Needs root; each test has network namespaces of its own.

#[path = "vhost/bed.rs"]
mod guests;
mod support;

use clearway_io::{
    Frame, FrameBatch, HugePages, Offload, Offloads, PoolSet, Port, TapDevice, TapError, TapPort, TxCounts,
    Umem, UmemGeometry, VhostPort,
};
use clearway_virtio_mock::Raw;
use guests::{Guest, GuestOptions, config};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Barrier};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use support::{PATIENCE, Wire, frame, fresh_netns, ip, link, readable, up, within};

/// Bytes that go through a TCP connection.
const BYTES: usize = 32 << 20;

struct Setup {
    umem: Umem,
    pools: PoolSet,
}

fn setup() -> Setup {
    let geometry = UmemGeometry {
        chunk_size: 2048,
        chunks: 1024,
        huge_pages: HugePages::Off,
    };
    let umem = Umem::new(geometry).expect("memory");
    let mut pools = PoolSet::new();
    pools.add(&umem);
    Setup { umem, pools }
}

impl Setup {
    fn open(&self, name: &str) -> TapPort {
        let device = TapDevice::open(name, 1).expect("a TAP");
        device.ports(&self.umem).remove(0)
    }

    fn send(&mut self, port: &mut TapPort, bytes: &[u8], offload: Option<Offload>) -> TxCounts {
        let mut frame = self.pools.frame_from(self.umem.id(), bytes).expect("chunks");
        if let Some(offload) = offload {
            assert!(frame.set_offload(offload));
        }
        let mut frames = vec![frame];
        let counts = port.tx_batch(&mut self.pools, &mut frames);
        frames.drain(..).for_each(|frame| self.pools.free(frame));
        counts
    }

    /// Carries frames between two ports until it is over; every one is looked at.
    fn carry(&mut self, ports: &mut [TapPort; 2], mut look: impl FnMut(&Frame), over: impl Fn() -> bool) {
        let started = Instant::now();
        while !over() {
            assert!(started.elapsed() < PATIENCE * 60, "it hangs");
            for (from, to) in [(0, 1), (1, 0)] {
                let mut batch = FrameBatch::new();
                ports[from].rx_batch(&mut self.pools, &mut batch);
                let mut frames: Vec<Frame> = batch.into_iter().collect();
                frames.iter().for_each(&mut look);
                let n = frames.len() as u64;
                let counts = ports[to].tx_batch(&mut self.pools, &mut frames);
                assert_eq!((counts.packets, counts.unsendable, frames.len()), (n, 0, 0));
                ports[from].rx_done();
            }
        }
    }

    /// Every chunk is home.
    fn end(self) {
        drop(self.pools);
        assert_eq!(self.umem.depot_chunks(), 1024, "chunks are lost");
    }
}

const SENT: TxCounts = TxCounts {
    packets: 1,
    bytes: 60,
    unsendable: 0,
};
const UNSENDABLE: TxCounts = TxCounts {
    packets: 0,
    bytes: 0,
    unsendable: 1,
};

/// A thread in a namespace of its own with a TAP, which is handed out once it has its address; what the thread gives is
/// `talk`'s result.
fn host<T: Send + 'static>(
    address: &'static str,
    umem: &Umem,
    talk: impl FnOnce() -> T + Send + 'static,
) -> (Receiver<TapPort>, JoinHandle<T>) {
    let (to, from): (Sender<TapPort>, _) = channel();
    let umem = umem.clone();
    let thread = std::thread::spawn(move || {
        assert!(fresh_netns());
        let device = TapDevice::open("tap0", 1).expect("a TAP");
        ip(&format!("address add {address}/24 dev tap0"));
        up(&["tap0"], 1500);
        assert!(device.offloads().contains(Offloads::TSO4 | Offloads::TSO6));
        to.send(device.ports(&umem).remove(0)).expect("the test waits");
        talk()
    });
    (from, thread)
}

/// Two kernels talk TCP through two TAPs: their large packets go from one to the other as they are.
#[test]
fn tcp_crosses_in_packets_of_64_kib() {
    if !fresh_netns() {
        return;
    }
    let mut setup = setup();
    let (server, served) = host("10.9.0.1", &setup.umem, || {
        let listener = TcpListener::bind("10.9.0.1:7000").expect("listener");
        let (mut stream, _) = listener.accept().expect("a connection");
        let mut sum = 0u64;
        let mut buffer = vec![0; 1 << 16];
        loop {
            match stream.read(&mut buffer).expect("data") {
                0 => return sum,
                n => sum += buffer[..n].iter().map(|byte| u64::from(*byte)).sum::<u64>(),
            }
        }
    });
    let (client, sent) = host("10.9.0.2", &setup.umem, || {
        let mut stream = within(PATIENCE, || TcpStream::connect("10.9.0.1:7000").ok()).expect("a connection");
        let bytes: Vec<u8> = (0..BYTES).map(|i| (i / 251) as u8).collect();
        stream.write_all(&bytes).expect("all");
        bytes.iter().map(|byte| u64::from(*byte)).sum::<u64>()
    });
    let mut ports = [server, client].map(|from| from.recv_timeout(PATIENCE).expect("a TAP"));
    let (mut longest, mut held) = (0, 0);
    let look = |frame: &Frame| {
        longest = frame.len().max(longest);
        held += usize::from(frame.is_held());
        let offload = frame.offload();
        let large = offload.is_some_and(|o| o.needs.contains(Offloads::TSO4) && o.gso_size > 1000);
        assert_eq!(frame.len() > 1514, large, "{offload:?}");
    };
    setup.carry(&mut ports, look, || served.is_finished() && sent.is_finished());
    assert_eq!(served.join().expect("server"), sent.join().expect("client"));
    assert!(
        longest > 32768 && held > 0,
        "the longest frame had {longest} bytes"
    );
    assert_eq!(
        ports.each_mut().map(|port| port.rx_lost()),
        [Default::default(); 2]
    );
    drop(ports);
    setup.end();
}

/// Datagrams that their sender left together (UDP_SEGMENT, udp(7)) cross together, and arrive one by one.
#[test]
fn datagrams_cross_together() {
    if !fresh_netns() {
        return;
    }
    let mut setup = setup();
    let bound = Arc::new(Barrier::new(2));
    let is_bound = bound.clone();
    let (server, served) = host("10.9.0.1", &setup.umem, move || {
        let socket = UdpSocket::bind("10.9.0.1:7000").expect("a socket");
        is_bound.wait();
        let mut buffer = [0; 1 << 16];
        let mut next = || {
            let (n, _) = socket.recv_from(&mut buffer).expect("a datagram");
            (n, buffer[0])
        };
        std::array::from_fn::<_, 10, _>(|_| next())
    });
    let (client, sent) = host("10.9.0.2", &setup.umem, move || {
        bound.wait();
        let socket = UdpSocket::bind("10.9.0.2:7000").expect("a socket");
        let size: libc::c_int = 1000;
        let value: *const libc::c_int = &raw const size;
        // SAFETY: value points to an int that lives through the call.
        let set = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_UDP,
                libc::UDP_SEGMENT,
                value.cast(),
                4,
            )
        };
        assert_eq!(set, 0, "UDP_SEGMENT: {}", std::io::Error::last_os_error());
        let bytes: Vec<u8> = (0..9500).map(|i| (i / 1000) as u8).collect();
        socket.send_to(&bytes, "10.9.0.1:7000").expect("sent");
    });
    let mut ports = [server, client].map(|from| from.recv_timeout(PATIENCE).expect("a TAP"));
    let mut together = Vec::new();
    let look = |frame: &Frame| together.extend(frame.offload().filter(|o| o.needs.contains(Offloads::USO4)));
    setup.carry(&mut ports, look, || served.is_finished());
    sent.join().expect("client");
    let expected = std::array::from_fn(|i| (if i < 9 { 1000 } else { 500 }, i as u8));
    assert_eq!(served.join().expect("server"), expected);
    let sizes: Vec<u16> = together.iter().map(|offload| offload.gso_size).collect();
    assert_eq!(sizes, [1000]);
    drop(ports);
    setup.end();
}

#[test]
fn a_device_that_is_down_takes_frames_again_when_it_is_up() {
    if !fresh_netns() {
        return;
    }
    let mut setup = setup();
    let mut port = setup.open("tap0");
    assert_eq!(
        setup.send(&mut port, &frame(0, 60), None),
        TxCounts::default(),
        "it is down"
    );
    assert!(port.is_down());
    assert_eq!(port.rx_batch(&mut setup.pools, &mut FrameBatch::new()), 0);
    assert!(!port.arm());
    up(&["tap0"], 1500);
    let wire = Wire::open("tap0");
    assert_eq!(setup.send(&mut port, &frame(1, 60), None), SENT);
    assert_eq!((port.is_down(), wire.recv()), (false, Some(frame(1, 60))));
    ip("link set tap0 down");
    assert_eq!(setup.send(&mut port, &frame(2, 60), None), TxCounts::default());
    assert_eq!(port.fault(), None);
    up(&["tap0"], 1500);
    assert_eq!(setup.send(&mut port, &frame(3, 60), None), SENT);
    drop(port);
    setup.end();
}

#[test]
fn a_deleted_device_is_a_fault_that_says_so() {
    if !fresh_netns() {
        return;
    }
    let mut setup = setup();
    for how in 0..3 {
        let mut port = setup.open("tap0");
        up(&["tap0"], 1500);
        assert!(!readable(port.wait_fd().expect("a descriptor"), Duration::ZERO));
        ip("link delete tap0");
        match how {
            0 => {
                assert!(port.arm(), "there is something to find out");
                assert_eq!(port.rx_batch(&mut setup.pools, &mut FrameBatch::new()), 0);
            }
            1 => assert_eq!(setup.send(&mut port, &frame(0, 60), None), TxCounts::default()),
            _ => drop(port.rx_lost()),
        }
        let fault = port.fault().expect("a fault").to_string();
        assert_eq!(
            fault,
            "the TAP tap0 was deleted, perhaps with its network namespace"
        );
    }
    setup.end();
}

#[test]
fn what_the_kernel_does_not_take_is_unsendable_and_alone() {
    if !fresh_netns() {
        return;
    }
    let mut setup = setup();
    let mut port = setup.open("tap0");
    up(&["tap0"], 1500);
    let wire = Wire::open("tap0");
    assert_eq!(setup.send(&mut port, &frame(0, 60)[..13], None), UNSENDABLE);
    // TCP over IPv4, whose header says that it is neither.
    let nonsense = Offload {
        needs: Offloads::CHECKSUM | Offloads::TSO4,
        start: 34,
        field: 6,
        gso_size: 10,
    };
    assert_eq!(setup.send(&mut port, &frame(0, 60), Some(nonsense)), UNSENDABLE);
    assert_eq!(setup.send(&mut port, &frame(1, 60), None), SENT);
    assert_eq!(wire.recv(), Some(frame(1, 60)));
    drop(port);
    setup.end();
}

/// The end of a long frame is still in the guest's memory when the kernel is to read it: a guest that has taken that away
/// meanwhile loses the frame, and nobody else one.
#[test]
fn a_frame_whose_guest_cut_its_memory_is_dropped_alone() {
    if !fresh_netns() {
        return;
    }
    let mut setup = setup();
    let mut tap = setup.open("tap0");
    up(&["tap0"], 9000);
    let wire = Wire::open("tap0");
    let mut guest = Guest::new(&GuestOptions {
        ram: vec![1 << 20, 1 << 20],
        ..GuestOptions::default()
    });
    let mut port = VhostPort::new(config(&guest), &setup.umem).expect("a port");
    let region = &guest.ram.regions()[1];
    let (file, cut) = (region.file.try_clone().expect("a file"), region.offset);
    let raw = Raw {
        addr: region.guest,
        len: 12 + 4000,
        flags: 0,
    };
    let sent = frame(1, 4000);
    guest.ram.write(raw.addr, &[&[0; 12][..], &sent].concat());
    // The first whole, the second one cut, and one of ours behind it.
    for (is_cut, wanted) in [(false, 2), (true, 1)] {
        guest.tx().ring.offer_raw(&[raw]);
        guest.tx().flush();
        let mut batch = FrameBatch::new();
        assert_eq!(port.rx_batch(&mut setup.pools, &mut batch), 1);
        assert!(batch[0].is_held());
        if is_cut {
            file.set_len(cut).expect("a shorter file");
        }
        let mut frames: Vec<Frame> = batch.drain(..).collect();
        let own = setup.pools.frame_from(setup.umem.id(), &frame(2, 60));
        frames.push(own.expect("a chunk"));
        let counts = tap.tx_batch(&mut setup.pools, &mut frames);
        assert_eq!((counts.packets, counts.unsendable), (wanted, 2 - wanted));
        assert!(frames.is_empty());
        port.rx_done();
        if !is_cut {
            assert_eq!(wire.recv(), Some(sent.clone()));
        }
        assert_eq!(wire.recv(), Some(frame(2, 60)));
        assert_eq!((tap.fault(), tap.is_down()), (None, false));
    }
    drop((tap, port));
    setup.end();
}

#[test]
fn an_unfinished_checksum_goes_in_and_out() {
    if !fresh_netns() {
        return;
    }
    let mut setup = setup();
    ip("link set lo up");
    let mut port = setup.open("tap0");
    up(&["tap0"], 1500);
    ip("address add 10.9.0.1/24 dev tap0");
    ip("neighbour add 10.9.0.2 lladdr 02:00:00:00:00:02 dev tap0");
    let socket = UdpSocket::bind("10.9.0.1:7000").expect("a socket");
    socket.send_to(b"hello", "10.9.0.2:7000").expect("sent");
    let mut batch = FrameBatch::new();
    within(PATIENCE, || {
        (port.rx_batch(&mut setup.pools, &mut batch) > 0).then_some(())
    })
    .expect("a frame");
    let offload = batch[0].offload().expect("left undone");
    assert_eq!(
        (offload.needs, offload.start, offload.field),
        (Offloads::CHECKSUM, 34, 6)
    );
    // Back to its sender as an answer: the sum over both addresses and ports is the same.
    let mut frame = batch.remove(0);
    let bytes = frame.bytes_mut();
    bytes[..6].copy_from_slice(&mac_of("tap0"));
    let (source, target): ([u8; 4], [u8; 4]) = ([10, 9, 0, 1], [10, 9, 0, 2]);
    assert_eq!(bytes[26..34], [source, target].concat());
    bytes[26..30].copy_from_slice(&target);
    bytes[30..34].copy_from_slice(&source);
    let mut frames = vec![frame];
    assert_eq!(port.tx_batch(&mut setup.pools, &mut frames).packets, 1);
    socket.set_nonblocking(true).expect("a setting");
    let mut answer = [0; 16];
    let (n, from) = within(PATIENCE, || socket.recv_from(&mut answer).ok()).expect("an answer");
    assert_eq!(
        (&answer[..n], from.to_string().as_str()),
        (&b"hello"[..], "10.9.0.2:7000")
    );
    batch.drain(..).for_each(|frame| setup.pools.free(frame));
    drop(port);
    setup.end();
}

fn mac_of(interface: &str) -> [u8; 6] {
    let line = link(interface);
    let text = line.split("link/ether ").nth(1).expect("an address");
    let mut bytes = text[..17]
        .split(':')
        .map(|byte| u8::from_str_radix(byte, 16).expect("hex"));
    std::array::from_fn(|_| bytes.next().expect("six"))
}

/// Waits for a device to go: a child of this process that another test is just starting has its queues, too, until it
/// has become another program.
fn gone(name: &str) {
    within(PATIENCE, || link(name).is_empty().then_some(())).unwrap_or_else(|| panic!("{name} stays"));
}

/// Opens a device whose queues were closed: see [`gone`].
fn open_again(name: &str, queues: u16) -> TapDevice {
    within(PATIENCE, || TapDevice::open(name, queues).ok()).expect("it is taken up")
}

#[test]
fn a_persistent_device_is_taken_up_again_and_another_goes() {
    if !fresh_netns() {
        return;
    }
    let setup = setup();
    drop(setup.open("passing"));
    gone("passing");
    for queues in [1, 4] {
        let device = TapDevice::open("kept", queues).expect("a TAP");
        device.keep().expect("it stays");
        ip("link set kept mtu 4000");
        drop(device);
        assert!(link("kept").contains("mtu 4000"));
        let again = open_again("kept", queues);
        assert!(link("kept").contains("mtu 4000"));
        drop(again);
        ip("link delete kept");
    }
    // One that was made for many queues serves one as well, not the other way round.
    TapDevice::open("many", 2)
        .expect("a TAP")
        .keep()
        .expect("it stays");
    drop(open_again("many", 1));
    TapDevice::open("one", 1)
        .expect("a TAP")
        .keep()
        .expect("it stays");
    drop(open_again("one", 1));
    let error = TapDevice::open("one", 2).expect_err("it has one queue");
    assert!(error.to_string().contains("multi_queue"), "{error}");
    setup.end();
}

#[test]
fn a_name_that_is_taken_is_refused_and_nothing_stays() {
    if !fresh_netns() {
        return;
    }
    ip("link add v type veth peer name w");
    let error = TapDevice::open("v", 1).expect_err("it is a veth");
    assert!(matches!(error, TapError::Attach { queue: 0, .. }), "{error}");
    let first = TapDevice::open("tap0", 1).expect("a TAP");
    let error = TapDevice::open("tap0", 1).expect_err("it is in use");
    assert!(error.to_string().contains("another program has it"), "{error}");
    drop(first);
    gone("tap0");
    // The kernel stops at 256 queues: those that it gave are given back.
    let error = TapDevice::open("tap0", 300).expect_err("too many");
    assert!(matches!(error, TapError::Attach { queue: 256, .. }), "{error}");
    gone("tap0");
}

#[test]
fn the_queues_of_a_device_share_its_frames() {
    if !fresh_netns() {
        return;
    }
    let mut setup = setup();
    let mut ports = TapDevice::open("tap0", 4).expect("a TAP").ports(&setup.umem);
    up(&["tap0"], 1500);
    ip("address add 10.9.0.1/24 dev tap0");
    ip("neighbour add 10.9.0.2 lladdr 02:00:00:00:00:02 dev tap0");
    for port in 7000..7064 {
        let socket = UdpSocket::bind(("10.9.0.1", port)).expect("a socket");
        socket.send_to(b"hello", "10.9.0.2:7000").expect("sent");
    }
    let mut counts = [0; 4];
    within(PATIENCE, || {
        for (port, count) in ports.iter_mut().zip(&mut counts) {
            let mut batch = FrameBatch::new();
            *count += port.rx_batch(&mut setup.pools, &mut batch);
            batch.drain(..).for_each(|frame| setup.pools.free(frame));
            port.rx_done();
        }
        (counts.iter().sum::<usize>() >= 64).then_some(())
    })
    .unwrap_or_else(|| panic!("only {counts:?} of 64 arrived"));
    assert!(counts.iter().all(|count| *count > 0), "{counts:?}");
    drop(ports);
    setup.end();
}
