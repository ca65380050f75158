//! Every step of an attachment's life fails, or is the last thing that the daemon does, once each: whatever comes of it,
//! an attachment is there as a whole or nothing of it is left.

use std::collections::BTreeMap;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::sleep;
use std::time::{Duration, Instant};

use clearway_config::attach::{
    Addresses, Attach, AttachKind, Attachment, AttachmentId, AttachmentState, Collect, Ipam, Route, Segment,
    VhostSocket,
};
use clearway_config::{Name, PortKind};
use clearway_io::TapDevice;

mod nic;
mod vf;

use clearway_config::attach::VfSettings;
use clearway_sriov::inventory::VfState;
use clearway_sriov::saved::VfLease;
use nic::Nic;

use super::ground::{Fault, Ground};
use super::known::Known;
use super::manager::PATIENCE;
use super::{AttachError, HostGround, Manager};
use crate::daemon::{AttachedPort, Standing};
use crate::handle::{ApiError, ErrorCode, Handle, Request};
use crate::host::pod::testbed::Container;
use crate::host::pod::{DEVICE, PodNetns};
use crate::host::tap::{Tap, Wanted};
use crate::host::testing::{isolate, sh};
use crate::store::{Change, MemoryStore, Record, Store, StoreError};

/// What happens at which step; commits to the store are steps as well.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Plan {
    #[default]
    Nothing,
    /// This one does nothing and fails.
    Fails(usize),
    /// This one is done, and reports a failure.
    Lies(usize),
    /// The daemon ends after this one.
    Ends(usize),
}

type Work = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Steps {
    plan: Plan,
    done: Vec<&'static str>,
    /// What somebody else does meanwhile, once: before the next step of this name.
    meanwhile: Option<(&'static str, Work)>,
}

#[derive(Clone, Default)]
struct Script(Arc<Mutex<Steps>>);

impl Script {
    fn play(&self, plan: Plan) {
        let mut steps = self.lock();
        (steps.plan, steps.done) = (plan, Vec::new());
    }

    fn meanwhile(&self, step: &'static str, work: impl FnOnce() + Send + 'static) {
        self.lock().meanwhile = Some((step, Box::new(work)));
    }

    /// How many steps were tried.
    fn steps(&self) -> usize {
        self.lock().done.len()
    }

    fn lock(&self) -> MutexGuard<'_, Steps> {
        self.0.lock().expect("no test panics in a step")
    }

    fn step<T, E>(
        &self,
        name: &'static str,
        injected: impl FnOnce(String) -> E,
        step: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, E> {
        let meanwhile = self.lock().meanwhile.take_if(|(before, _)| *before == name);
        if let Some((_, work)) = meanwhile {
            work();
        }
        let (number, plan) = {
            let mut steps = self.lock();
            steps.done.push(name);
            (steps.done.len(), steps.plan)
        };
        match plan {
            Plan::Fails(at) if at == number => Err(injected(format!("{name} fails"))),
            Plan::Ends(at) if at < number => Err(injected(format!("nobody does {name}"))),
            // A commit that fails has changed nothing: the store promises that.
            Plan::Lies(at) if at == number && name != "commit" => {
                step()?;
                Err(injected(format!("{name} is said to fail")))
            }
            _ => step(),
        }
    }
}

/// A ground that follows a script.
struct Scripted<G> {
    ground: Arc<G>,
    script: Script,
}

impl<G: Ground> Scripted<G> {
    fn step<T>(&self, name: &'static str, step: impl FnOnce(&G) -> Result<T, Fault>) -> Result<T, Fault> {
        self.script.step(name, Fault::Injected, || step(&self.ground))
    }
}

impl<G: Ground> Ground for Scripted<G> {
    fn netns(&self, path: &Path) -> Result<PodNetns, Fault> {
        self.ground.netns(path)
    }
    fn name_is_free(&self, netns: &PodNetns, interface: &str) -> Result<PodNetns, Fault> {
        self.ground.name_is_free(netns, interface)
    }
    fn standing(&self, segment: &Segment) -> Result<Standing, Fault> {
        self.ground.standing(segment)
    }
    fn vhost_folder(&self, port: &Name) -> PathBuf {
        self.ground.vhost_folder(port)
    }
    fn make_veth(&self, known: &Known) -> Result<(), Fault> {
        self.step("make_veth", |ground| ground.make_veth(known))
    }
    fn set_up(&self, known: &Known) -> Result<(), Fault> {
        self.step("set_up", |ground| ground.set_up(known))
    }
    fn taken_routes(&self, known: &Known) -> Result<Vec<Route>, Fault> {
        self.ground.taken_routes(known)
    }
    fn make_folder(&self, known: &Known) -> Result<(), Fault> {
        self.step("make_folder", |ground| ground.make_folder(known))
    }
    fn take_vf(&self, device: &str, holder: &str) -> Result<VfLease, Fault> {
        self.ground.take_vf(device, holder)
    }
    fn hold_vf(&self, lease: &VfLease) {
        self.ground.hold_vf(lease);
    }
    fn forget_vf(&self, lease: &VfLease) {
        self.ground.forget_vf(lease);
    }
    fn set_vf(&self, known: &Known) -> Result<(), Fault> {
        self.step("set_vf", |ground| ground.set_vf(known))
    }
    fn move_vf(&self, known: &Known) -> Result<(), Fault> {
        self.step("move_vf", |ground| ground.move_vf(known))
    }
    fn fetch_vf(&self, known: &Known) -> Result<(), Fault> {
        self.step("fetch_vf", |ground| ground.fetch_vf(known))
    }
    fn give_back_vf(&self, known: &Known) -> Result<(), Fault> {
        self.step("give_back_vf", |ground| ground.give_back_vf(known))
    }
    fn open_port(&self, known: &Known) -> Result<(), Fault> {
        self.step("open_port", |ground| ground.open_port(known))
    }
    fn announce(&self, known: &Known) {
        self.ground.announce(known);
    }
    fn close_port(&self, known: &Known) -> Result<(), Fault> {
        self.step("close_port", |ground| ground.close_port(known))
    }
    fn remove_veth(&self, known: &Known) -> Result<(), Fault> {
        self.step("remove_veth", |ground| ground.remove_veth(known))
    }
    fn remove_tap(&self, known: &Known) -> Result<(), Fault> {
        self.step("remove_tap", |ground| ground.remove_tap(known))
    }
    fn remove_folder(&self, known: &Known) -> Result<(), Fault> {
        self.step("remove_folder", |ground| ground.remove_folder(known))
    }
    fn look(&self, known: &Known) -> Vec<String> {
        self.ground.look(known)
    }
    fn repair(&self, known: &Known) -> Result<(), Fault> {
        self.ground.repair(known)
    }
}

struct ScriptedStore {
    store: MemoryStore,
    script: Script,
}

impl Store for ScriptedStore {
    fn load(&mut self) -> Result<Vec<Record>, StoreError> {
        self.store.load()
    }
    fn commit(&mut self, changes: &[Change]) -> Result<(), StoreError> {
        let store = &mut self.store;
        self.script
            .step("commit", |_| StoreError::Injected(0), || store.commit(changes))
    }
    fn flush(&mut self) -> Result<(), StoreError> {
        Ok(())
    }
}

/// The ports that the control thread has, each with its TAP, if it is one.
type Ports = BTreeMap<Name, Option<(TapDevice, Tap)>>;

/// What of a port is here: the control thread makes a TAP, and nothing else is needed.
fn opened(attached: &AttachedPort) -> Result<Option<(TapDevice, Tap)>, ApiError> {
    if attached.port.kind != PortKind::Tap {
        return Ok(None);
    }
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        match Tap::open(&Wanted::of(&attached.port)) {
            // A child that another test is about to start has our queues until it is another program.
            Err(error) if error.passes() && Instant::now() < end => sleep(Duration::from_millis(5)),
            made => return made.map(Some).map_err(ApiError::failed),
        }
    }
}

/// Everything that outlives a daemon, a daemon on it, and the control thread, which here remembers ports and makes TAPs.
struct Scene {
    handle: Handle,
    ground: Arc<HostGround>,
    store: MemoryStore,
    script: Script,
    ports: Arc<Mutex<Ports>>,
    /// The bridge domain of every segment; none: it is missing.
    domain: Domain,
    pod: Container,
    folder: tempfile::TempDir,
    daemon: Arc<Manager>,
    nic: Nic,
    /// How its VF was before anybody touched it.
    vf: VfState,
}

impl Scene {
    fn new() -> Self {
        isolate();
        let ports = Arc::new(Mutex::new(Ports::new()));
        let domain = Domain::default();
        *domain.lock().expect("no panic") = Some(name("red"));
        let handle = control(ports.clone(), domain.clone());
        let folder = tempfile::tempdir().expect("a folder");
        let nic = Nic::new();
        let ground = Arc::new(ground(&handle, folder.path(), &nic));
        let (store, script) = (MemoryStore::default(), Script::default());
        Self {
            daemon: Arc::new(manager(&ground, &store, &script)),
            ground,
            store,
            script,
            ports,
            domain,
            pod: Container::start(),
            folder,
            vf: nic.state(0),
            nic,
            handle,
        }
    }

    /// The daemon ends, and another one begins: the engine is empty but for what the attachments ask for.
    fn restart(&mut self, plan: Plan) {
        self.script.play(plan);
        self.ground = Arc::new(ground(&self.handle, self.folder.path(), &self.nic));
        self.daemon = Arc::new(manager(&self.ground, &self.store, &self.script));
        // The kernel closes what the first one had.
        self.ports().clear();
        for (name, attached) in self.daemon.ports() {
            let port = opened(&attached).expect("it is as the last daemon left it");
            self.ports().insert(name, port);
        }
        self.daemon.finish();
    }

    fn ports(&self) -> MutexGuard<'_, Ports> {
        self.ports.lock().expect("no panic")
    }

    fn wanted(&self, kind: AttachKind) -> Attach {
        Attach {
            network: "net".to_owned(),
            netns: self.pod.path(),
            pod: None,
            kind,
            segment: match kind {
                AttachKind::Vf => Segment::Pf,
                _ => Segment::Domain(name("red")),
            },
            mac: None,
            mtu: None,
            rate_limit: clearway_config::RateLimit::default(),
            anti_spoof: false,
            vhost: (kind == AttachKind::VhostUser).then(VhostSocket::default),
            vf: (kind == AttachKind::Vf).then(|| VfSettings {
                device: Nic::pci(0),
                vlan: Some(100),
                trust: Some(true),
                ..VfSettings::default()
            }),
            ipam: match kind {
                AttachKind::VhostUser => Ipam::None,
                AttachKind::Veth | AttachKind::Tap | AttachKind::Vf => Ipam::Pool {
                    pool: None,
                    wanted: Vec::new(),
                },
            },
        }
    }

    /// What there is of it: its record, its port, its interface or folder, its address.
    fn traces(&mut self, kind: AttachKind) -> [bool; 4] {
        let records = self.store.load().expect("it is in memory");
        let has = |kind: &str| records.iter().any(|record| record.kind.as_str() == kind);
        let thing = match kind {
            AttachKind::Veth => {
                !self.pod.ip("link show type veth").is_empty() || !sh("ip link show type veth").is_empty()
            }
            AttachKind::Tap => {
                !self.pod.ip("link show type tun").is_empty() || !sh("ip link show type tun").is_empty()
            }
            AttachKind::VhostUser => {
                let folders = std::fs::read_dir(self.folder.path().join("vhost"));
                folders.is_ok_and(|mut folders| folders.next().is_some())
            }
            AttachKind::Vf => {
                let in_pod = !self.pod.ip(&format!("link show type {DEVICE}")).is_empty();
                let as_before = self.nic.state(0) == self.vf;
                assert!(!in_pod || !as_before);
                !as_before
            }
        };
        // A VF has none.
        let port = !self.ports().is_empty() || kind == AttachKind::Vf && thing;
        let lease = has("lease") || kind == AttachKind::VhostUser && thing;
        [has("attachment"), port, thing, lease]
    }
}

/// What a daemon does on this host; its leases end with it.
fn ground(handle: &Handle, folder: &Path, nic: &Nic) -> HostGround {
    HostGround::new(handle.clone(), folder.join("vhost")).with_vfs(Box::new(nic.clone()))
}

fn manager(ground: &Arc<HostGround>, store: &MemoryStore, script: &Script) -> Manager {
    let store = Box::new(ScriptedStore {
        store: store.clone(),
        script: script.clone(),
    });
    let ground = Box::new(Scripted {
        ground: ground.clone(),
        script: script.clone(),
    });
    Manager::open(store, ground).expect("what was written can be read")
}

type Domain = Arc<Mutex<Option<Name>>>;

fn control(ports: Arc<Mutex<Ports>>, domain: Domain) -> Handle {
    let pool = "version: 1\naddress-pools: {p: {subnets: [{subnet: 10.8.0.0/29}]}}\n";
    let spec = clearway_config::Spec::from_yaml(pool, "test").expect("it is right");
    Handle::new(move |request| {
        let mut ports = ports.lock().expect("no panic");
        match request {
            Request::Standing { segment, reply } => {
                let domain = domain.lock().expect("no panic").clone();
                let standing = domain.map(|domain| Standing {
                    domain: (segment != Segment::Pf).then_some(domain),
                    pools: spec.address_pools.clone(),
                });
                reply.send(standing.ok_or_else(|| ApiError::not_found("there is no such segment")));
            }
            Request::Attach { name, wanted, reply } => {
                reply.send(opened(&wanted).map(|port| {
                    ports.insert(name, port);
                }));
            }
            Request::Detach { name, reply, .. } => {
                ports.remove(&name);
                reply.send(Ok(()));
            }
            Request::WhyDown { name, reply } => {
                let down = (!ports.contains_key(&name)).then(|| "not there".to_owned());
                reply.send(Ok(down));
            }
            _ => return false,
        }
        true
    })
}

fn name(text: &str) -> Name {
    Name::new(text).expect("a name")
}

fn id(container: &str) -> AttachmentId {
    AttachmentId {
        container: container.to_owned(),
        interface: "net1".to_owned(),
    }
}

const WHOLE: [bool; 4] = [true; 4];
const NOTHING: [bool; 4] = [false; 4];

/// Runs `work` with every plan of a kind until one comes too late to matter; gives how many there were.
fn every(plan: impl Fn(usize) -> Plan, mut work: impl FnMut(Plan) -> usize) -> usize {
    for at in 1.. {
        if work(plan(at)) < at {
            return at - 1;
        }
        assert!(at < 50, "no attachment takes that many steps");
    }
    0
}

const KINDS: [AttachKind; 4] = [
    AttachKind::Veth,
    AttachKind::Tap,
    AttachKind::VhostUser,
    AttachKind::Vf,
];

#[test]
fn a_step_that_fails_leaves_all_or_nothing() {
    let mut scene = Scene::new();
    for kind in KINDS {
        for plan in [Plan::Fails as fn(usize) -> Plan, Plan::Lies] {
            let steps = every(plan, |plan| {
                scene.script.play(plan);
                let added = scene.daemon.add(&id("c"), scene.wanted(kind));
                let (tried, traces) = (scene.script.steps(), scene.traces(kind));
                let expected = if added.is_ok() { WHOLE } else { NOTHING };
                assert_eq!(traces, expected, "{kind} {plan:?}: {added:?}");
                scene.script.play(Plan::Nothing);
                scene.daemon.remove(&id("c")).expect("nothing fails now");
                assert_eq!(scene.traces(kind), NOTHING, "{kind} {plan:?}: removed");
                tried
            });
            assert!(steps >= 4, "{kind}: record, interface, port, record: {steps}");
            let steps = every(plan, |plan| {
                scene.script.play(Plan::Nothing);
                scene
                    .daemon
                    .add(&id("c"), scene.wanted(kind))
                    .expect("nothing fails now");
                scene.script.play(plan);
                let removed = scene.daemon.remove(&id("c"));
                let tried = scene.script.steps();
                // The runtime tries again, or the daemon does.
                scene.script.play(Plan::Nothing);
                if removed.is_err() {
                    scene.daemon.finish();
                    scene.daemon.remove(&id("c")).expect("nothing fails now");
                }
                assert_eq!(scene.traces(kind), NOTHING, "{kind} {plan:?}: {removed:?}");
                tried
            });
            assert!(steps >= 4, "{kind}: record, port, interface, record: {steps}");
        }
    }
}

#[test]
fn a_daemon_that_ends_at_any_step_is_followed_by_one_that_leaves_all_or_nothing() {
    let mut scene = Scene::new();
    for kind in KINDS {
        let ends = every(Plan::Ends, |plan| {
            scene.script.play(plan);
            let added = scene.daemon.add(&id("c"), scene.wanted(kind)).is_ok();
            let tried = scene.script.steps();
            // The next one may end as well, at any of its steps.
            every(Plan::Ends, |again| {
                scene.restart(again);
                scene.script.steps()
            });
            scene.restart(Plan::Nothing);
            let traces = scene.traces(kind);
            assert!(
                traces == WHOLE || !added && traces == NOTHING,
                "{kind} {plan:?}: {traces:?}"
            );
            scene.daemon.remove(&id("c")).expect("nothing fails now");
            tried
        });
        assert!(ends >= 4, "{kind}: {ends}");
        let ends = every(Plan::Ends, |plan| {
            scene.script.play(Plan::Nothing);
            scene
                .daemon
                .add(&id("c"), scene.wanted(kind))
                .expect("nothing fails now");
            scene.script.play(plan);
            let removed = scene.daemon.remove(&id("c")).is_ok();
            let tried = scene.script.steps();
            scene.restart(Plan::Nothing);
            let traces = scene.traces(kind);
            // One that had not begun to go is still there.
            assert!(
                traces == NOTHING || !removed && traces == WHOLE,
                "{kind} {plan:?}: {traces:?}"
            );
            scene.daemon.remove(&id("c")).expect("nothing fails now");
            tried
        });
        assert!(ends >= 4, "{kind}: {ends}");
    }
}

/// What a DHCP server gives; the second route is one that the pod may have already.
fn lease() -> Addresses {
    let lease = serde_json::json!({
        "ips": [{"address": "10.9.0.5/24", "gateway": "10.9.0.1"}],
        "routes": [{"dst": "10.99.0.0/16"}, {"dst": "0.0.0.0/0", "gw": "10.9.0.1"}]
    });
    serde_json::from_value(lease).expect("addresses")
}

fn awaiting(scene: &Scene) -> Attach {
    awaiting_as(scene, AttachKind::Veth)
}

fn awaiting_as(scene: &Scene, kind: AttachKind) -> Attach {
    Attach {
        ipam: Ipam::Awaited,
        ..scene.wanted(kind)
    }
}

/// Its record, its port and its interface: there is no lease of ours.
fn parts(scene: &mut Scene, kind: AttachKind) -> [bool; 3] {
    let [record, port, thing, _] = scene.traces(kind);
    [record, port, thing]
}

#[test]
fn one_that_awaits_addresses_is_complete_when_it_has_them() {
    let scene = Scene::new();
    let added = scene.daemon.add(&id("c"), awaiting(&scene)).expect("added");
    assert_eq!(
        (added.state, &added.addresses),
        (AttachmentState::Adding, &Addresses::default())
    );
    assert_eq!(
        scene.pod.ip("link show dev net1")[0]["flags"]
            .to_string()
            .matches("\"UP\"")
            .count(),
        1
    );
    // It waits as long as the daemon lives, and is nobody else's.
    scene.daemon.finish();
    let again = scene.daemon.add(&id("c"), awaiting(&scene));
    assert!(matches!(again, Err(AttachError::Exists(_))), "{again:?}");
    // The pod's default route through another interface stays.
    for line in [
        "ip link add eth0 type veth peer name eth1",
        "ip address add 10.200.0.2/24 dev eth0",
        "ip link set dev eth0 up",
        "ip route add default via 10.200.0.1",
    ] {
        scene.pod.sh(line);
    }
    let given = scene
        .daemon
        .give_addresses(&id("c"), lease())
        .expect("it has them");
    let taken = Addresses {
        routes: lease().routes[..1].to_vec(),
        ..lease()
    };
    assert_eq!((given.state, &given.addresses), (AttachmentState::Ready, &taken));
    assert_eq!(
        scene.daemon.look(&id("c")).expect("it is there").problems,
        [""; 0]
    );
    let again = scene.daemon.give_addresses(&id("c"), lease());
    assert_eq!(again.expect("the same once more"), given);
    let other = scene.daemon.give_addresses(&id("c"), taken);
    assert!(matches!(other, Err(AttachError::NotAwaited(_))), "{other:?}");
    let none = scene.daemon.give_addresses(&id("d"), lease());
    assert!(matches!(none, Err(AttachError::None(_))), "{none:?}");
    let mut socket = scene.wanted(AttachKind::VhostUser);
    socket.ipam = Ipam::Awaited;
    let socket = scene.daemon.add(&id("d"), socket);
    assert!(matches!(socket, Err(AttachError::Invalid(_))), "{socket:?}");
}

/// A DHCP server gives a default route to everyone; whoever delegates to another IPAM plugin has written it for this pod.
#[test]
fn a_delegated_route_must_have_its_place() {
    let mut scene = Scene::new();
    let delegated = Attach {
        ipam: Ipam::Delegated,
        ..scene.wanted(AttachKind::Veth)
    };
    scene.daemon.add(&id("c"), delegated.clone()).expect("added");
    for line in [
        "ip link add eth0 type veth peer name eth1",
        "ip address add 10.200.0.2/24 dev eth0",
        "ip link set dev eth0 up",
        "ip route add default via 10.200.0.1",
    ] {
        scene.pod.sh(line);
    }
    let refused = scene.daemon.give_addresses(&id("c"), lease());
    assert!(matches!(refused, Err(AttachError::Step { .. })), "{refused:?}");
    scene.daemon.remove(&id("c")).expect("removed");
    scene.pod.sh("ip link del eth0");
    assert_eq!(parts(&mut scene, AttachKind::Veth), [false; 3]);
    scene.daemon.add(&id("c"), delegated).expect("added");
    let given = scene
        .daemon
        .give_addresses(&id("c"), lease())
        .expect("it has them");
    assert_eq!((given.state, given.addresses), (AttachmentState::Ready, lease()));
}

#[test]
fn one_that_awaits_addresses_in_vain_goes() {
    let mut scene = Scene::new();
    let second = Duration::from_secs(1);
    scene.daemon.add(&id("c"), awaiting(&scene)).expect("added");
    scene.daemon.let_pass(&id("c"), PATIENCE - 60 * second);
    scene.daemon.finish();
    assert_eq!(
        parts(&mut scene, AttachKind::Veth),
        [true; 3],
        "they may still come"
    );
    // Meanwhile they come for another one, which stays.
    let other = Container::start();
    let there = Attach {
        netns: other.path(),
        ..awaiting(&scene)
    };
    scene.daemon.add(&id("d"), there).expect("added");
    scene
        .daemon
        .give_addresses(&id("d"), lease())
        .expect("it has them");
    scene.daemon.let_pass(&id("c"), 60 * second);
    scene.daemon.finish();
    let left: Vec<_> = scene.daemon.list().into_iter().map(|one| one.id).collect();
    assert_eq!(left, [id("d")]);
    let late = scene.daemon.give_addresses(&id("c"), lease());
    assert!(matches!(late, Err(AttachError::None(_))), "{late:?}");
    assert!(
        scene.pod.ip("link show type veth").is_empty(),
        "nothing is left in the pod"
    );
    // And the name is free at once, also before that was seen.
    scene.daemon.add(&id("c"), awaiting(&scene)).expect("added");
    scene.daemon.let_pass(&id("c"), PATIENCE);
    scene
        .daemon
        .add(&id("c"), awaiting(&scene))
        .expect("the runtime tries anew");
    scene
        .daemon
        .give_addresses(&id("c"), lease())
        .expect("it has them");
}

#[test]
fn one_that_awaits_addresses_is_there_as_a_whole_or_goes() {
    for kind in [AttachKind::Veth, AttachKind::Tap, AttachKind::Vf] {
        awaited_as_a_whole_or_gone(kind);
    }
}

#[track_caller]
fn awaited_as_a_whole_or_gone(kind: AttachKind) {
    let mut scene = Scene::new();
    let work = |scene: &Scene| {
        scene.daemon.add(&id("c"), awaiting_as(scene, kind))?;
        scene.daemon.give_addresses(&id("c"), lease())
    };
    for plan in [Plan::Fails as fn(usize) -> Plan, Plan::Lies] {
        let steps = every(plan, |plan| {
            scene.script.play(plan);
            let given = work(&scene);
            let tried = scene.script.steps();
            scene.script.play(Plan::Nothing);
            // Where the addresses could not be given the plugin takes it back, while the interface is there.
            if given.is_err() && !scene.daemon.list().is_empty() {
                assert_eq!(parts(&mut scene, kind), [true; 3], "{kind} {plan:?}: {given:?}");
            }
            scene.daemon.remove(&id("c")).expect("nothing fails now");
            assert_eq!(scene.traces(kind), NOTHING, "{kind} {plan:?}: {given:?}");
            tried
        });
        // A TAP's port and interface are one.
        let least = if kind == AttachKind::Tap { 5 } else { 6 };
        assert!(
            steps >= least,
            "{kind}: record, interface, settings, port, addresses, record: {steps}"
        );
        // Taking it back fails at each step.
        every(plan, |plan| {
            scene.script.play(Plan::Nothing);
            scene
                .daemon
                .add(&id("c"), awaiting_as(&scene, kind))
                .expect("nothing fails now");
            scene.script.play(plan);
            let removed = scene.daemon.remove(&id("c"));
            let tried = scene.script.steps();
            scene.script.play(Plan::Nothing);
            scene.daemon.finish();
            assert_eq!(scene.traces(kind), NOTHING, "{kind} {plan:?}: {removed:?}");
            tried
        });
    }
    every(Plan::Ends, |plan| {
        scene.script.play(plan);
        let given = work(&scene).is_ok();
        let tried = scene.script.steps();
        every(Plan::Ends, |again| {
            scene.restart(again);
            scene.script.steps()
        });
        scene.restart(Plan::Nothing);
        let there = parts(&mut scene, kind);
        assert!(
            there == [true; 3] || !given && there == [false; 3],
            "{kind} {plan:?}: {there:?}"
        );
        // Whoever was to bring the addresses is told.
        let told = scene.daemon.give_addresses(&id("c"), lease());
        assert_eq!(told.is_ok(), there == [true; 3], "{told:?}");
        scene.daemon.remove(&id("c")).expect("nothing fails now");
        tried
    });
}

#[test]
fn a_second_one_of_the_name_is_refused_and_harms_nothing() {
    let mut scene = Scene::new();
    let first = scene
        .daemon
        .add(&id("c"), scene.wanted(AttachKind::Veth))
        .expect("added");
    assert_eq!(first.state, AttachmentState::Ready);
    let again = scene.daemon.add(&id("c"), scene.wanted(AttachKind::Veth));
    assert!(matches!(again, Err(AttachError::Exists(_))), "{again:?}");
    // Another container's would have the same name in the same pod.
    let other = scene.daemon.add(&id("d"), scene.wanted(AttachKind::Veth));
    assert!(
        matches!(other, Err(AttachError::Step { left: false, .. })),
        "{other:?}"
    );
    assert_eq!(scene.traces(AttachKind::Veth), WHOLE);
    assert_eq!(scene.daemon.list().len(), 1);
    assert_eq!(
        scene.daemon.look(&id("c")).expect("it is there").problems,
        [""; 0]
    );
}

#[test]
fn what_is_in_the_way_or_not_there_is_told_from_what_failed() {
    let scene = Scene::new();
    let told = |wanted: Attach| {
        let error = scene.daemon.add(&id("c"), wanted).expect_err("it can't be");
        let told = ApiError::from(error);
        let details = told.details.iter().map(|detail| detail.path.clone()).collect();
        (told.code, details)
    };
    let netns = || vec!["netns".to_owned()];
    let elsewhere = |netns: &str| Attach {
        netns: netns.into(),
        ..scene.wanted(AttachKind::Veth)
    };
    for (path, what) in [
        ("/run/netns/clearway-no-such", "none"),
        ("/dev/null", "no namespace"),
        ("/proc/thread-self/ns/net", "the daemon's own"),
    ] {
        assert_eq!(told(elsewhere(path)), (ErrorCode::BadRequest, netns()), "{what}");
    }
    for line in [
        "ip link add eth0 type veth peer name eth1",
        "ip address add 10.200.0.2/24 dev eth0",
        "ip link set dev eth0 up",
        "ip route add 10.99.0.0/16 via 10.200.0.1",
    ] {
        scene.pod.sh(line);
    }
    let given = Attach {
        ipam: Ipam::Given(lease()),
        ..scene.wanted(AttachKind::Veth)
    };
    assert_eq!(told(given.clone()), (ErrorCode::Conflict, vec![]), "a route");
    let twice = serde_json::json!({"ips": [{"address": "2001:db8::5/64"}, {"address": "2001:db8::5/65"}]});
    let twice = Ipam::Given(serde_json::from_value(twice).expect("addresses"));
    let twice = Attach { ipam: twice, ..given };
    assert_eq!(told(twice), (ErrorCode::Conflict, vec![]), "an address");
    let mut there = scene.wanted(AttachKind::Veth);
    there.ipam = Ipam::None;
    scene.pod.sh("ip link add net1 type veth peer name eth2");
    assert_eq!(told(there.clone()), (ErrorCode::Conflict, vec![]), "an interface");
    scene.pod.sh("ip link delete net1");
    scene.script.play(Plan::Fails(2));
    assert_eq!(told(there), (ErrorCode::Failed, vec![]));
}

#[test]
fn of_two_containers_with_one_namespace_the_second_does_not_take_the_firsts_interface() {
    let scene = Scene::new();
    for kind in [AttachKind::Tap, AttachKind::Veth] {
        let mut wanted = scene.wanted(kind);
        wanted.ipam = Ipam::None;
        scene.script.play(Plan::Nothing);
        scene.daemon.add(&id("c"), wanted.clone()).expect("added");
        // The second one finds the name free, as one does that has looked before the first one's interface was made.
        scene.pod.sh("ip link delete net1");
        scene.script.play(Plan::Nothing);
        let by_another_path = format!("/proc/{}/root/{}", std::process::id(), scene.pod.path().display());
        for netns in [scene.pod.path(), by_another_path.into()] {
            let second = Attach {
                netns,
                ..wanted.clone()
            };
            let refused = scene.daemon.add(&id("d"), second);
            assert!(
                matches!(&refused, Err(AttachError::Taken { by, .. }) if *by == id("c")),
                "{kind}: {refused:?}"
            );
        }
        assert_eq!(
            scene.script.lock().done,
            [""; 0],
            "{kind}: nothing was made or removed"
        );
        let other = Container::start();
        let mut elsewhere = scene.wanted(AttachKind::Veth);
        (elsewhere.ipam, elsewhere.netns) = (Ipam::None, other.path());
        scene
            .daemon
            .add(&id("d"), elsewhere)
            .expect("another namespace is fine");
        for container in ["c", "d"] {
            scene.daemon.remove(&id(container)).expect("removed");
        }
    }
}

#[test]
fn what_is_added_anew_while_the_old_is_cleared_away_stays() {
    let mut scene = Scene::new();
    let other = Container::start();
    let mut elsewhere = scene.wanted(AttachKind::Veth);
    elsewhere.netns = other.path();
    for (container, wanted) in [("a", elsewhere), ("b", scene.wanted(AttachKind::Veth))] {
        // The pair is made, and that is all that this daemon can do.
        scene.script.play(Plan::Ends(2));
        scene.daemon.add(&id(container), wanted).expect_err("it ended");
    }
    let half_made = |scene: &Scene| {
        let all = scene.daemon.list().into_iter();
        all.filter(|one| one.state != AttachmentState::Ready).count()
    };
    assert_eq!(half_made(&scene), 2);
    scene.script.play(Plan::Nothing);
    let (daemon, wanted) = (scene.daemon.clone(), scene.wanted(AttachKind::Veth));
    scene.script.meanwhile("close_port", move || {
        daemon.add(&id("b"), wanted).expect("added anew");
    });
    scene.daemon.finish();
    let left: Vec<_> = scene.daemon.list().into_iter().map(|one| one.id).collect();
    assert_eq!(left, [id("b")]);
    assert_eq!(scene.traces(AttachKind::Veth), WHOLE);
}

#[test]
fn of_many_that_find_the_same_remains_one_adds() {
    let mut scene = Scene::new();
    for _ in 0..10 {
        scene.script.play(Plan::Ends(2));
        let mut wanted = scene.wanted(AttachKind::Veth);
        wanted.ipam = Ipam::None;
        scene.daemon.add(&id("c"), wanted.clone()).expect_err("it ended");
        scene.script.play(Plan::Nothing);
        let daemon = &scene.daemon;
        let added: usize = std::thread::scope(|scope| {
            let add = || usize::from(daemon.add(&id("c"), wanted.clone()).is_ok());
            let threads: Vec<_> = (0..6).map(|_| scope.spawn(add)).collect();
            let added = threads.into_iter().map(|thread| thread.join().expect("no panic"));
            added.sum()
        });
        assert_eq!(added, 1);
        assert_eq!(scene.daemon.list().len(), 1);
        let [record, port, thing, _] = scene.traces(AttachKind::Veth);
        assert!(record && port && thing);
        scene.daemon.remove(&id("c")).expect("nothing fails now");
    }
}

#[test]
fn why_one_could_not_be_removed_is_told() {
    let scene = Scene::new();
    scene
        .daemon
        .add(&id("c"), scene.wanted(AttachKind::Veth))
        .expect("added");
    scene.script.play(Plan::Ends(1));
    scene.daemon.remove(&id("c")).expect_err("it ended");
    scene.daemon.finish();
    let [one] = &scene.daemon.list()[..] else {
        panic!("it is there");
    };
    assert_eq!(one.state, AttachmentState::Removing);
    assert!(
        one.problems.join("; ").contains("nobody does close_port"),
        "{:?}",
        one.problems
    );
}

#[test]
fn what_others_changed_is_found_and_put_right() {
    let scene = Scene::new();
    let there = scene
        .daemon
        .add(&id("c"), scene.wanted(AttachKind::Veth))
        .expect("added");
    for (change, told) in [
        ("ip link set net1 address 02:00:00:00:00:99", "MAC"),
        ("ip link set net1 mtu 1400", "MTU"),
        ("ip address flush dev net1", "address"),
        ("ip link set net1 down", "down"),
        ("ip link delete net1", "not in the pod"),
    ] {
        scene.pod.sh(change);
        let found = scene
            .daemon
            .look(&id("c"))
            .expect("it is there")
            .problems
            .join("; ");
        assert!(found.contains(told), "{change}: {found}");
        scene.daemon.repair(&id("c"));
        let left = scene.daemon.look(&id("c")).expect("it is there").problems;
        assert!(left.is_empty(), "{change}: {left:?}");
    }
    let address = scene.pod.ip("address show dev net1")[0]["addr_info"].to_string();
    let wanted = there.addresses.ips[0].address.addr().to_string();
    assert!(address.contains(&wanted), "{address}");
}

#[test]
fn a_vlan_that_moves_to_another_domain_takes_its_attachments_along() {
    let mut scene = Scene::new();
    let mut wanted = scene.wanted(AttachKind::Veth);
    wanted.segment = Segment::Vlan(10_u16.try_into().expect("a VLAN"));
    let added = scene.daemon.add(&id("c"), wanted).expect("added");
    assert_eq!(added.domain, Some(name("red")));
    let listed = |scene: &Scene| scene.daemon.list()[0].domain.clone();
    let now = |scene: &Scene, domain: Option<&str>| {
        *scene.domain.lock().expect("no panic") = domain.map(name);
    };
    now(&scene, Some("rouge"));
    assert!(scene.daemon.repair(&id("c")).is_empty(), "it is no drift");
    assert_eq!(listed(&scene), Some(name("rouge")));
    now(&scene, Some("rosso"));
    let seen = scene.daemon.look(&id("c")).expect("it is there");
    assert_eq!(
        (seen.domain, listed(&scene)),
        (Some(name("rosso")), Some(name("rosso")))
    );
    // It is what its record says at the next start, until it is looked at.
    scene.restart(Plan::Nothing);
    scene.daemon.repair(&id("c"));
    assert_eq!(listed(&scene), Some(name("rosso")));
    // Where it is missing, nobody knows better.
    now(&scene, None);
    let seen = scene.daemon.look(&id("c")).expect("it is there");
    assert_eq!(seen.domain, Some(name("rosso")));
}

#[test]
fn a_folder_that_the_user_names_is_not_removed() {
    let scene = Scene::new();
    // Beside those that are made for one socket each: two pods share it.
    let shared = scene.folder.path().join("vhost/shared");
    for (container, file) in [("a", "a.sock"), ("b", "b.sock")] {
        let mut wanted = scene.wanted(AttachKind::VhostUser);
        wanted.vhost = Some(VhostSocket {
            folder: Some(shared.clone()),
            file: Some(file.to_owned()),
            ..VhostSocket::default()
        });
        scene.daemon.add(&id(container), wanted).expect("added");
        std::fs::write(shared.join(file), "").expect("the folder is there");
    }
    scene.daemon.remove(&id("a")).expect("removed");
    assert!(shared.join("b.sock").exists());
}

/// Whoever may use the socket reaches it, and only they; a user's folder keeps the rights that it has.
#[test]
fn a_sockets_folder_is_its_users() {
    let scene = Scene::new();
    let label = "system_u:object_r:container_file_t:s0";
    let theirs = scene.folder.path().join("theirs");
    for folder in [None, Some(theirs.clone())] {
        let mut wanted = scene.wanted(AttachKind::VhostUser);
        wanted.vhost = Some(VhostSocket {
            folder: folder.clone(),
            owner: Some("12345".to_owned()),
            group: Some("23456".to_owned()),
            selinux_label: Some(label.to_owned()),
            ..VhostSocket::default()
        });
        if folder.is_some() {
            std::fs::create_dir(&theirs).expect("a folder");
            std::fs::set_permissions(&theirs, std::fs::Permissions::from_mode(0o711)).expect("it is ours");
        }
        let added = scene.daemon.add(&id("c"), wanted).expect("added");
        let known = Known {
            attachment: added.clone(),
            netns: scene.pod.netns(),
            vf: None,
        };
        scene.ground.make_folder(&known).expect("once more is fine");
        let place = added.socket.expect("a socket");
        let place = place.parent().expect("a folder");
        let meta = std::fs::metadata(place).expect("it was made");
        let rights = (meta.uid(), meta.gid(), meta.mode() & 0o7777);
        let expected = match folder {
            None => (12345, 23456, 0o750),
            Some(_) => (0, 0, 0o711),
        };
        assert_eq!(rights, expected);
        assert_eq!(label_of(place), Some(label.to_owned()));
        scene.daemon.remove(&id("c")).expect("removed");
    }
    let mut wanted = scene.wanted(AttachKind::VhostUser);
    wanted.vhost = Some(VhostSocket {
        group: Some("no-such-group".to_owned()),
        ..VhostSocket::default()
    });
    let refused = scene
        .daemon
        .add(&id("c"), wanted)
        .expect_err("there is none")
        .to_string();
    assert!(
        refused.contains("no group `no-such-group`") && refused.contains("nothing is left"),
        "{refused}"
    );
    assert_eq!(scene.daemon.list(), []);
}

fn label_of(place: &Path) -> Option<String> {
    let mut found = [0_u8; 100];
    let length = rustix::fs::lgetxattr(place, "security.selinux", &mut found[..]).ok()?;
    let label = String::from_utf8_lossy(found[..length].trim_ascii_end());
    Some(label.into_owned())
}

/// Whoever may write in the folder above would say which file gets the label.
#[test]
fn a_symbolic_link_in_a_folders_place_is_not_followed() {
    let scene = Scene::new();
    let (target, link) = (
        scene.folder.path().join("target"),
        scene.folder.path().join("link"),
    );
    std::fs::create_dir(&target).expect("a folder");
    std::os::unix::fs::symlink(&target, &link).expect("a link");
    let asking = |folder: PathBuf, label: Option<&str>| {
        let mut wanted = scene.wanted(AttachKind::VhostUser);
        wanted.vhost = Some(VhostSocket {
            folder: Some(folder),
            selinux_label: label.map(str::to_owned),
            ..VhostSocket::default()
        });
        scene.daemon.add(&id("c"), wanted)
    };
    let refused = asking(link.clone(), Some("u:r:t"))
        .expect_err("it is a link")
        .to_string();
    assert!(
        refused.contains(&link.display().to_string())
            && refused.contains("symbolic link")
            && refused.contains("nothing is left"),
        "{refused}"
    );
    assert_eq!(label_of(&target), None);
    assert_eq!(scene.daemon.list(), []);
    // A link on the way there is the user's own, and one that is given nothing may be a link.
    std::fs::create_dir(target.join("sub")).expect("a folder");
    for (folder, label) in [(link.join("sub"), Some("u:r:t")), (link, None)] {
        asking(folder, label).expect("added");
        scene.daemon.remove(&id("c")).expect("removed");
    }
    assert_eq!(label_of(&target.join("sub")), Some("u:r:t".to_owned()));
}

#[test]
fn a_containers_own_folder_goes_with_its_last_socket() {
    let mut scene = Scene::new();
    let shared = scene.folder.path().join("shared");
    let folder = shared.join("0123456789ab");
    let add = |scene: &Scene, interface: &str| {
        let mut wanted = scene.wanted(AttachKind::VhostUser);
        wanted.vhost = Some(VhostSocket {
            folder: Some(folder.clone()),
            own_folder: true,
            file: Some(interface.to_owned()),
            ..VhostSocket::default()
        });
        let which = AttachmentId {
            interface: interface.to_owned(),
            ..id("c")
        };
        scene.daemon.add(&which, wanted).expect("added");
        which
    };
    let (one, other) = (add(&scene, "net1"), add(&scene, "net2"));
    // The port's socket goes with the port, which here is none.
    std::fs::write(folder.join("net2"), "").expect("the folder is there");
    scene.daemon.remove(&one).expect("removed");
    assert!(folder.join("net2").exists());
    std::fs::remove_file(folder.join("net2")).expect("it is there");
    scene.daemon.remove(&other).expect("removed");
    assert!(!folder.exists() && shared.exists());
    // Nor where the daemon ended meanwhile, or somebody else was quicker.
    let again = add(&scene, "net1");
    scene.script.play(Plan::Ends(1));
    scene.daemon.remove(&again).expect_err("it ended");
    scene.restart(Plan::Nothing);
    assert!(!folder.exists() && shared.exists());
    let again = add(&scene, "net1");
    std::fs::remove_dir(&folder).expect("it is empty");
    scene.daemon.remove(&again).expect("removed");
    // What the pod has put there stays.
    let again = add(&scene, "net1");
    std::fs::write(folder.join("pods"), "").expect("the folder is there");
    scene.daemon.remove(&again).expect("removed");
    assert!(folder.join("pods").exists());
}

/// A daemon that is killed leaves its sockets, and the next one may never have had the port.
#[test]
fn a_socket_in_a_users_folder_goes_although_nobody_serves_it() {
    let mut scene = Scene::new();
    let shared = scene.folder.path().join("shared");
    // Beyond what an address of a socket has room for.
    let long = scene.folder.path().join("x".repeat(150));
    let work = |scene: &mut Scene, folder: &Path, own_folder: bool, client: bool, listens: bool| {
        let mut wanted = scene.wanted(AttachKind::VhostUser);
        wanted.vhost = Some(VhostSocket {
            folder: Some(folder.to_owned()),
            own_folder,
            file: Some("a.sock".to_owned()),
            client,
            ..VhostSocket::default()
        });
        let place = folder.to_owned();
        // As the control thread makes it, with the name that the kernel has for the folder.
        scene.script.play(Plan::Ends(3));
        scene.script.meanwhile("open_port", move || {
            let folder = std::fs::File::open(&place).expect("it was made");
            let path = format!("/proc/self/fd/{}/a.sock", folder.as_raw_fd());
            let socket = UnixListener::bind(path).expect("nobody has it");
            if listens {
                std::mem::forget(socket);
            }
        });
        scene.daemon.add(&id("c"), wanted).expect_err("it ended");
        assert!(folder.join("a.sock").exists(), "the scene is right");
        scene.restart(Plan::Nothing);
        assert_eq!(scene.daemon.list(), []);
        let left = folder.join("a.sock").exists();
        let _ = std::fs::remove_file(folder.join("a.sock"));
        left
    };
    assert!(!work(&mut scene, &shared, false, false, false), "a stale one");
    assert!(shared.exists(), "the folder is the user's");
    assert!(!work(&mut scene, &long, false, false, false), "a long path");
    assert!(!work(&mut scene, &shared.join("c"), true, false, false));
    assert!(!shared.join("c").exists() && shared.exists(), "its own folder");
    assert!(work(&mut scene, &shared, false, true, false), "the pod's own");
    assert!(work(&mut scene, &shared, false, false, true), "somebody listens");
    // What is not there any more, or not a folder, keeps nothing from going.
    for instead in [false, true] {
        let mut wanted = scene.wanted(AttachKind::VhostUser);
        wanted.vhost = Some(VhostSocket {
            folder: Some(shared.clone()),
            ..VhostSocket::default()
        });
        scene.daemon.add(&id("c"), wanted).expect("added");
        std::fs::remove_dir(&shared).expect("it is empty");
        if instead {
            std::fs::write(&shared, "").expect("its place is free");
        }
        scene.daemon.remove(&id("c")).expect("removed");
    }
}

#[test]
fn an_attachment_says_whose_it_is() {
    let scene = Scene::new();
    let added = scene
        .daemon
        .add(&id("c"), scene.wanted(AttachKind::VhostUser))
        .expect("added");
    let mut told = serde_json::to_value(&added).expect("JSON");
    assert_eq!(told["owner"], "cni");
    // An older daemon's says nothing of it.
    told.as_object_mut().expect("an object").remove("owner");
    let read: Attachment = serde_json::from_value(told).expect("an attachment");
    assert_eq!(read, added);
}

#[test]
fn what_is_not_valid_any_more_is_collected() {
    let scene = Scene::new();
    let others = [Container::start(), Container::start()];
    let add = |container: &str, pod: &Container, network: &str| {
        let mut wanted = scene.wanted(AttachKind::Veth);
        (wanted.netns, wanted.network) = (pod.path(), network.to_owned());
        scene.daemon.add(&id(container), wanted).expect("added");
    };
    add("a", &scene.pod, "net");
    add("b", &others[0], "net");
    add("c", &others[1], "other");
    let valid = Collect {
        network: "net".to_owned(),
        valid: vec![id("a")],
    };
    assert_eq!(scene.daemon.collect(&valid).expect("removed"), [id("b")]);
    let left: Vec<_> = scene.daemon.list().into_iter().map(|a| a.id).collect();
    assert_eq!(left, [id("a"), id("c")]);
}
