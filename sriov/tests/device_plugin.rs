//! The device plugin against a stand-in for the kubelet, over real sockets.
#![allow(clippy::unwrap_used, reason = "a test that unwraps in vain has failed")]

mod kubelet;

use std::fs;
use std::future::Future;
use std::path::Path;
use std::time::{Duration, Instant};

use clearway_sriov::plugin::{Candidate, Folders, IommuGroup, Options, PluginError, holdings, pools, run};
use kubelet::{Checkpoint, Kubelet, allocate, connect};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

const NET: &str = "intel.com/net";

fn vf(pf: u32, index: u32) -> Candidate {
    Candidate {
        pci: format!("0000:{pf:02x}:{:02x}.{}", 2 + index / 8, index % 8),
        vendor: 0x8086,
        driver: Some("iavf".into()),
        pf_names: vec![format!("pf{pf}")],
        root_device: Some(format!("0000:{pf:02x}:00.0")),
        vf_index: Some(index),
        link_type: Some("ether".into()),
        numa: Some(pf % 2),
        healthy: true,
        ..Candidate::default()
    }
}

fn vfs(pf: u32, count: u32) -> Vec<Candidate> {
    (0..count).map(|index| vf(pf, index)).collect()
}

/// A run of the plugin.
struct Run {
    candidates: watch::Sender<Vec<Candidate>>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<(), PluginError>>,
}

fn options(root: &Path) -> Options {
    Options {
        kubelet: root.join("device-plugins"),
        pod_resources: root.join("pod-resources.sock"),
        device_info: root.join("devinfo"),
        cdi: None,
        folders: Folders {
            places: root.join("places"),
            hand_over: root.join("afxdp"),
        },
        every: Duration::from_millis(200),
        call_back: Duration::from_secs(60),
    }
}

impl Run {
    fn start(options: Options, text: &str, candidates: Vec<Candidate>) -> Self {
        let pools = pools::read(text, pools::DEFAULT_PREFIX).unwrap();
        let (candidates, receiver) = watch::channel(candidates);
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(run(options, pools, receiver, async {
            let _ = stopped.await;
        }));
        Self {
            candidates,
            stop,
            task,
        }
    }

    async fn stop(self) {
        let _ = self.stop.send(());
        self.task.await.unwrap().unwrap();
    }
}

/// Waits until it is so.
async fn until(what: &str, mut so: impl FnMut() -> bool) {
    let since = Instant::now();
    while !so() {
        assert!(
            since.elapsed() < Duration::from_secs(60),
            "not within a minute: {what}"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn test<F: Future<Output = ()>>(test: impl FnOnce(std::path::PathBuf) -> F) {
    let root = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    runtime.unwrap().block_on(test(root.path().into()));
}

const ONE_POOL: &str = r#"{"resourceList": [{"resourceName": "net", "selectors": {"pfNames": ["pf1", "pf2"], "linkTypes": ["ether"]}}]}"#;

#[test]
fn a_pod_is_given_devices() {
    test(|root| async move {
        let kubelet = Kubelet::start(&root, &Checkpoint::default());
        let run = Run::start(
            options(&root),
            ONE_POOL,
            [vfs(1, 4), vfs(2, 4), vfs(3, 1)].concat(),
        );
        until("eight devices", || kubelet.devices(NET, "Healthy").len() == 8).await;
        let known = kubelet.resource(NET);
        assert_eq!((known.registrations, known.lists), (1, 1));
        let nodes = |id: &str| known.devices[id].topology.as_ref().unwrap().nodes[0].id;
        assert_eq!((nodes("0000:01:02.0"), nodes("0000:02:02.0")), (1, 0));

        let answer = kubelet.admit("p", NET, 3).await.unwrap();
        let ids = &answer.envs["PCIDEVICE_INTEL_COM_NET"];
        assert_eq!(ids.matches("0000:02:").count(), 3, "{ids}: one NUMA node, one PF");
        let info = fs::read_to_string(root.join("devinfo/intel.com-net-0000:02:02.0-device.json")).unwrap();
        assert!(info.contains("\"pf-pci-address\":\"0000:02:00.0\""), "{info}");
        assert!(kubelet.admit("q", NET, 6).await.is_err(), "five are left");

        let held = holdings(&kubelet.pod_resources).await.unwrap();
        assert_eq!(held.len(), 3);
        assert_eq!(
            (
                held[0].namespace.as_str(),
                held[0].pod.as_str(),
                held[0].resource.as_str()
            ),
            ("default", "p", NET)
        );

        run.stop().await;
        until("the stream's end", || kubelet.resource(NET).gone).await;
        assert_eq!(fs::read_dir(root.join("devinfo")).unwrap().count(), 0);
        let left: Vec<_> = fs::read_dir(&kubelet.folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(left, ["kubelet.sock"]);
    });
}

#[test]
fn link_loss_and_vanished_devices_are_told_at_once() {
    test(|root| async move {
        let kubelet = Kubelet::start(&root, &Checkpoint::default());
        let calm = Options {
            every: Duration::from_secs(3600),
            ..options(&root)
        };
        let run = Run::start(calm, ONE_POOL, vfs(1, 4));
        until("four devices", || kubelet.devices(NET, "Healthy").len() == 4).await;

        let mut down = vfs(1, 4);
        down.iter_mut().for_each(|vf| vf.healthy = vf.vf_index == Some(0));
        run.candidates.send(down.clone()).unwrap();
        until("unhealthy", || kubelet.devices(NET, "Unhealthy").len() == 3).await;
        let mut plugin = connect(&kubelet.folder.join(kubelet.resource(NET).endpoint)).await;
        let error = allocate(&mut plugin, &["0000:01:02.1".into()]).await.unwrap_err();
        assert_eq!(error.code(), tonic::Code::FailedPrecondition, "{error}");

        run.candidates.send(down[..1].to_vec()).unwrap();
        until("one is left", || kubelet.resource(NET).devices.len() == 1).await;
        let error = allocate(&mut plugin, &["0000:01:02.1".into()]).await.unwrap_err();
        assert_eq!(error.code(), tonic::Code::NotFound, "{error}");
        assert_eq!(fs::read_dir(root.join("devinfo")).unwrap().count(), 1);

        let lists = kubelet.resource(NET).lists;
        run.candidates.send(down[..1].to_vec()).unwrap();
        run.candidates.send(vfs(1, 4)).unwrap();
        until("all again", || kubelet.devices(NET, "Healthy").len() == 4).await;
        assert_eq!(
            kubelet.resource(NET).lists,
            lists + 1,
            "what is the same is not told again"
        );
        run.stop().await;
    });
}

#[test]
fn the_kubelet_starts_again_and_later() {
    test(|root| async move {
        let checkpoint = Checkpoint::default();
        let two = r#"{"resourceList": [{"resourceName": "net", "selectors": {"pfNames": ["pf1"]}},
            {"resourceName": "more", "resourcePrefix": "example.com"}]}"#;
        // Not even its folder is there yet.
        let run = Run::start(options(&root), two, [vfs(1, 4), vfs(2, 2)].concat());
        tokio::time::sleep(Duration::from_millis(300)).await;
        let mut kubelet = Kubelet::start(&root, &checkpoint);
        let full = |kubelet: &Kubelet| {
            let more = kubelet.devices("example.com/more", "Healthy").len();
            kubelet.devices(NET, "Healthy").len() == 4 && more == 2
        };
        until("both resources", || full(&kubelet)).await;
        kubelet.admit("p", NET, 2).await.unwrap();
        for round in 0..5 {
            kubelet.kill();
            if round % 2 == 0 {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            kubelet = Kubelet::start_in(&root, &checkpoint, round < 3);
            until("both resources again", || full(&kubelet)).await;
            assert!(kubelet.admit("q", NET, 3).await.is_err(), "two are held");
            kubelet.admit("q", NET, 2).await.unwrap();
            kubelet.remove("q");
        }

        // Somebody removes a socket.
        fs::remove_file(kubelet.folder.join(kubelet.resource(NET).endpoint)).unwrap();
        until("registered again", || kubelet.resource(NET).registrations == 2).await;
        until("both resources again", || full(&kubelet)).await;
        assert_eq!(
            kubelet.resource("example.com/more").registrations,
            1,
            "that one was not disturbed"
        );

        // One that has just started knows none of its pods: what they hold stays, although no selector finds it.
        let mut away = [vfs(1, 4), vfs(2, 2)].concat();
        away.iter_mut().for_each(|vf| vf.pf_names.clear());
        kubelet.kill();
        let young = Kubelet::start(&root, &Checkpoint::default());
        run.candidates.send(away).unwrap();
        until("both resources with a young kubelet", || full(&young)).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert!(full(&young), "nothing moves");
        run.candidates.send([vfs(1, 4), vfs(2, 2)].concat()).unwrap();
        young.kill();
        let kubelet = Kubelet::start(&root, &checkpoint);
        until("both resources again", || full(&kubelet)).await;

        // It is there, but does not want yet.
        kubelet.kill();
        let kubelet = Kubelet::start(&root, &checkpoint);
        kubelet.refuse(true);
        tokio::time::sleep(Duration::from_millis(300)).await;
        kubelet.refuse(false);
        until("both resources again", || full(&kubelet)).await;
        run.stop().await;
    });
}

#[test]
fn a_kubelet_that_hangs_up_is_called_again() {
    test(|root| async move {
        let kubelet = Kubelet::start(&root, &Checkpoint::default());
        let brief = Options {
            call_back: Duration::from_millis(300),
            ..options(&root)
        };
        let run = Run::start(brief, ONE_POOL, vfs(1, 2));
        until("two devices", || kubelet.devices(NET, "Healthy").len() == 2).await;
        let before = kubelet.resource(NET).registrations;
        kubelet.hang_up();
        until("registered again", || {
            kubelet.resource(NET).registrations > before
        })
        .await;
        until("two devices again", || kubelet.devices(NET, "Healthy").len() == 2).await;
        run.stop().await;
    });
}

#[test]
fn our_restart_loses_no_device_that_a_pod_holds() {
    test(|root| async move {
        let kubelet = Kubelet::start(&root, &Checkpoint::default());
        let run = Run::start(options(&root), ONE_POOL, vfs(1, 4));
        until("four devices", || kubelet.devices(NET, "Healthy").len() == 4).await;
        let answer = kubelet.admit("p", NET, 2).await.unwrap();
        let held: Vec<String> = answer.envs["PCIDEVICE_INTEL_COM_NET"]
            .split(',')
            .map(str::to_owned)
            .collect();
        run.stop().await;

        // Meanwhile the configuration takes VFs for another pool, of what the pod holds one interface is out of sight, and one VF has vanished.
        let other = r#"{"resourceList": [{"resourceName": "other", "selectors": {"pfNames": ["pf1#0-1"]}},
            {"resourceName": "net", "selectors": {"pfNames": ["pf1#2"], "linkTypes": ["ether"]}}]}"#;
        let mut now: Vec<Candidate> = vfs(1, 4).into_iter().filter(|vf| vf.pci != held[1]).collect();
        now.iter_mut()
            .filter(|vf| vf.pci == held[0])
            .for_each(|vf| vf.link_type = None);
        let free: Vec<_> = now
            .iter()
            .filter(|vf| vf.pci != held[0])
            .map(|vf| vf.pci.clone())
            .collect();
        fs::write(
            root.join(format!("devinfo/intel.com-net-{}-device.json", held[1])),
            "{}",
        )
        .unwrap();
        let run = Run::start(options(&root), other, now);
        until("the held one", || {
            kubelet.resource(NET).devices.contains_key(&held[0]) && !kubelet.resource(NET).gone
        })
        .await;
        let known = kubelet.resource(NET);
        assert!(!known.devices.contains_key(&held[1]), "it vanished");
        assert!(
            !root
                .join(format!("devinfo/intel.com-net-{}-device.json", held[1]))
                .exists()
        );
        assert!(
            root.join(format!("devinfo/intel.com-net-{}-device.json", held[0]))
                .exists()
        );
        until("the other pool", || kubelet.resource("intel.com/other").lists > 0).await;
        assert!(!kubelet.resource("intel.com/other").devices.contains_key(&held[0]));
        let all = kubelet.resource(NET).devices.len() + kubelet.resource("intel.com/other").devices.len();
        assert_eq!(all, free.iter().filter(|pci| !pci.ends_with(".3")).count() + 1);
        run.stop().await;
    });
}

#[test]
fn a_killed_run_leaves_nothing_in_the_way() {
    test(|root| async move {
        let kubelet = Kubelet::start(&root, &Checkpoint::default());
        let run = Run::start(options(&root), ONE_POOL, vfs(1, 2));
        until("two devices", || kubelet.devices(NET, "Healthy").len() == 2).await;
        run.task.abort();
        let _ = run.task.await;
        let socket = kubelet.folder.join(kubelet.resource(NET).endpoint);
        assert!(socket.exists());
        let run = Run::start(options(&root), ONE_POOL, vfs(1, 3));
        until("three devices", || kubelet.devices(NET, "Healthy").len() == 3).await;
        run.stop().await;
        assert!(!socket.exists());
    });
}

#[test]
fn places_for_ports_of_the_fast_path() {
    test(|root| async move {
        let kubelet = Kubelet::start(&root, &Checkpoint::default());
        let text = r#"{"resourceList": [{"resourceName": "ports", "deviceType": "vhostUser", "count": 3}]}"#;
        let run = Run::start(options(&root), text, Vec::new());
        until("three places", || {
            kubelet.devices("intel.com/ports", "Healthy").len() == 3
        })
        .await;
        let answer = kubelet.admit("p", "intel.com/ports", 2).await.unwrap();
        for mount in &answer.mounts {
            assert!(Path::new(&mount.host_path).is_dir(), "{mount:?}");
        }
        let sockets = &answer.envs["CLEARWAY_VHOST_USER_INTEL_COM_PORTS"];
        assert_eq!(
            sockets,
            "/var/run/clearway/ports-0/vhost.sock,/var/run/clearway/ports-1/vhost.sock"
        );
        run.stop().await;
    });
}

#[test]
fn the_runtime_brings_device_files_with_cdi() {
    test(|root| async move {
        let kubelet = Kubelet::start(&root, &Checkpoint::default());
        let cdi = Options {
            cdi: Some(root.join("cdi")),
            ..options(&root)
        };
        let text = r#"{"resourceList": [{"resourceName": "net", "excludeTopology": true}]}"#;
        let vfio = |index| Candidate {
            driver: Some("vfio-pci".into()),
            iommu_group: Some(IommuGroup {
                number: 40 + index,
                unprotected: false,
            }),
            ..vf(1, index)
        };
        let run = Run::start(cdi, text, vec![vfio(0), vfio(1)]);
        until("two devices", || kubelet.devices(NET, "Healthy").len() == 2).await;
        assert!(
            kubelet
                .resource(NET)
                .devices
                .values()
                .all(|device| device.topology.is_none())
        );
        let answer = kubelet.admit("p", NET, 1).await.unwrap();
        assert_eq!(answer.cdi_devices[0].name, "intel.com/net=0000:01:02.0");
        assert_eq!(answer.devices, []);
        let file = root.join("cdi/clearway-intel.com_net.json");
        let names = || fs::read_to_string(&file).unwrap().matches("\"name\"").count();
        assert_eq!(names(), 2);
        run.candidates.send(vec![vfio(0)]).unwrap();
        until("one device", || kubelet.resource(NET).devices.len() == 1).await;
        assert_eq!(names(), 1, "the file is up to date before the kubelet is told");
        run.stop().await;
        assert_eq!(names(), 1, "containers may start again");
    });
}

#[test]
fn a_socket_must_have_a_name_that_fits() {
    test(|root| async move {
        let name = "n".repeat(63);
        let text =
            format!(r#"{{"resourceList": [{{"resourceName": "{name}", "resourcePrefix": "{name}.com"}}]}}"#);
        let run = Run::start(options(&root), &text, Vec::new());
        assert!(matches!(run.task.await.unwrap(), Err(PluginError::LongPath(_))));
    });
}

/// Not a measurement (those are of release builds, undisturbed), but its order of magnitude, and a bound.
#[test]
fn allocate_with_256_devices() {
    test(|root| async move {
        let kubelet = Kubelet::start(&root, &Checkpoint::default());
        let run = Run::start(options(&root), ONE_POOL, [vfs(1, 128), vfs(2, 128)].concat());
        until("256 devices", || kubelet.devices(NET, "Healthy").len() == 256).await;
        let ids = kubelet.devices(NET, "Healthy");
        let mut plugin = connect(&kubelet.folder.join(kubelet.resource(NET).endpoint)).await;
        let mut times = Vec::new();
        for round in 0..2048 {
            let id = &ids[round * 7 % ids.len()];
            let since = Instant::now();
            let answer = allocate(&mut plugin, std::slice::from_ref(id)).await.unwrap();
            times.push(since.elapsed());
            assert_eq!(&answer.envs["PCIDEVICE_INTEL_COM_NET"], id);
        }
        times.sort();
        let (p50, p99) = (times[times.len() / 2], times[times.len() * 99 / 100]);
        println!(
            "Allocate with 256 devices, {} calls: p50 {p50:?}, p99 {p99:?}, longest {:?}",
            times.len(),
            times[times.len() - 1]
        );
        assert!(p99 < Duration::from_millis(100), "p99 {p99:?}");
        run.stop().await;
    });
}
