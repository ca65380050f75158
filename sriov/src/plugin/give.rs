//! What a container gets with its devices: environment, device files, folders; and the CDI specification that says the same.
//!
//! Names and values are those of sriov-network-device-plugin, so that a pod needs no change. Its documentation and its program differ in the
//! keys of `_INFO` (`vfio-mount` and `extraInfo` there, `mount` and `extra` here): both are written.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::api::v1beta1::{CdiDevice, ContainerAllocateResponse, DeviceSpec, Mount};
use super::assign::{Device, Devices};
use super::candidate::{Candidate, is_uio};
use super::pool::{Kind, Pool, place_folder};

/// The socket in a place's folder.
pub const PLACE_SOCKET: &str = "vhost.sock";
/// The socket in the hand-over folder.
pub const HAND_OVER_SOCKET: &str = "afxdp.sock";

/// Where things are on the host.
#[derive(Clone, Debug)]
pub struct Folders {
    /// The folders of vhost-user pools.
    pub places: PathBuf,
    /// The folder of the AF_XDP hand-over socket, and of nothing else: pods see it.
    pub hand_over: PathBuf,
}

/// Why a container gets nothing.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum GiveError {
    /// It vanished, or never was.
    #[error("{resource} has no device {id:?} (any more); the kubelet was told")]
    Unknown {
        /// The resource.
        resource: String,
        /// What was asked for.
        id: String,
    },
    /// It has no link.
    #[error(
        "{id} of {resource} is not healthy: it or its PF has lost its link (on-link-loss: keep would not mind)"
    )]
    Unhealthy {
        /// The resource.
        resource: String,
        /// What was asked for.
        id: String,
    },
}

/// The answer for one container. With `cdi`, device files are the runtime's affair.
pub fn give(
    pool: &Pool,
    devices: &Devices,
    ids: &[String],
    folders: &Folders,
    cdi: bool,
) -> Result<ContainerAllocateResponse, GiveError> {
    let resource = || pool.resource();
    let mut answer = ContainerAllocateResponse::default();
    let mut info = Map::new();
    for id in ids {
        let device = devices.get(id).ok_or_else(|| GiveError::Unknown {
            resource: resource(),
            id: id.clone(),
        })?;
        if !device.healthy() {
            let (resource, id) = (resource(), id.clone());
            return Err(GiveError::Unhealthy { resource, id });
        }
        let files = files(device);
        if cdi && !files.is_empty() {
            answer.cdi_devices.push(CdiDevice {
                name: format!("{}={id}", resource()),
            });
        } else {
            for (host, container) in files {
                let spec = DeviceSpec {
                    host_path: text(&host),
                    container_path: text(&container),
                    permissions: "rw".into(),
                };
                if !answer.devices.contains(&spec) {
                    answer.devices.push(spec);
                }
            }
        }
        match (&pool.kind, device) {
            (Kind::VhostUser { mount, .. }, _) => answer.mounts.push(Mount {
                container_path: text(&mount.join(id)),
                host_path: text(&place_folder(&folders.places, pool, id)),
                read_only: false,
            }),
            (
                _,
                Device::Function {
                    function,
                    rdma,
                    vhost_net,
                },
            ) => {
                let told = told(pool, function, *rdma, *vhost_net);
                info.insert(id.clone(), json!(told));
            }
            (_, Device::Place) => {}
        }
    }
    // Read-only is enough to connect to a socket, and the pod cannot put another in its place.
    if let Kind::AfXdp { mount, .. } = &pool.kind {
        answer.mounts.push(Mount {
            container_path: text(mount),
            host_path: text(&folders.hand_over),
            read_only: true,
        });
    }
    answer.envs = environment(pool, ids, info);
    Ok(answer)
}

fn environment(pool: &Pool, ids: &[String], info: Map<String, Value>) -> HashMap<String, String> {
    let name = pool.in_environment();
    let mut envs = HashMap::new();
    if let Kind::VhostUser { mount, .. } = &pool.kind {
        let sockets: Vec<_> = ids
            .iter()
            .map(|id| text(&mount.join(id).join(PLACE_SOCKET)))
            .collect();
        envs.insert(format!("CLEARWAY_VHOST_USER_{name}"), sockets.join(","));
        return envs;
    }
    if let Kind::AfXdp { mount, .. } = &pool.kind {
        envs.insert(
            format!("CLEARWAY_AF_XDP_{name}"),
            text(&mount.join(HAND_OVER_SOCKET)),
        );
    }
    envs.insert(format!("PCIDEVICE_{name}"), ids.join(","));
    envs.insert(format!("PCIDEVICE_{name}_INFO"), Value::Object(info).to_string());
    envs
}

/// What `_INFO` says of one device, by who says it.
fn told(
    pool: &Pool,
    function: &Candidate,
    rdma: bool,
    vhost_net: bool,
) -> BTreeMap<&'static str, BTreeMap<String, String>> {
    let mut told: BTreeMap<_, BTreeMap<String, String>> = BTreeMap::new();
    let mut tell = |of: &'static str, key: &str, value: String| {
        told.entry(of).or_default().insert(key.into(), value);
    };
    tell("generic", "deviceID", function.pci.clone());
    if let Some((_, container)) = vfio_group(function) {
        for (key, value) in [
            ("mount", "/dev/vfio/vfio".into()),
            ("dev-mount", text(&container)),
        ] {
            tell("vfio", key, value.clone());
            tell("vfio", &format!("vfio-{key}"), value);
        }
    }
    if let Some(file) = uio_file(function) {
        tell("uio", "mount", text(file));
    }
    if vhost_net {
        tell("vhost", "net-mount", "/dev/vhost-net".into());
        tell("vhost", "tun-mount", "/dev/net/tun".into());
    }
    if let Some(of) = function.rdma.as_ref().filter(|_| rdma) {
        tell("rdma", "rdma_dev", of.name.clone());
        for file in &of.files {
            let path = text(file);
            if let Some(kind) = ["uverbs", "umad", "issm", "rdma_cm"]
                .into_iter()
                .find(|kind| path.contains(kind))
            {
                tell("rdma", kind, path);
            }
        }
    }
    for of in ["*", &function.pci] {
        for (key, value) in pool.additional_info.get(of).into_iter().flatten() {
            tell("extra", key, value.clone());
            tell("extraInfo", key, value.clone());
        }
    }
    told
}

/// The device files of a device: on the host, and in the container.
fn files(device: &Device) -> Vec<(PathBuf, PathBuf)> {
    let Device::Function {
        function,
        rdma,
        vhost_net,
    } = device
    else {
        return Vec::new();
    };
    let mut files = Vec::new();
    let mut same = |path: &Path| files.push((path.to_owned(), path.to_owned()));
    if vfio_group(function).is_some() {
        same(Path::new("/dev/vfio/vfio"));
    }
    if let Some(file) = uio_file(function) {
        same(file);
    }
    if *vhost_net {
        same(Path::new("/dev/vhost-net"));
        same(Path::new("/dev/net/tun"));
    }
    for file in function
        .rdma
        .iter()
        .filter(|_| *rdma)
        .flat_map(|rdma| &rdma.files)
    {
        same(file);
    }
    files.extend(vfio_group(function));
    files
}

fn vfio_group(function: &Candidate) -> Option<(PathBuf, PathBuf)> {
    let group = function
        .iommu_group
        .filter(|_| function.driver.as_deref() == Some("vfio-pci"))?;
    let container = PathBuf::from(format!("/dev/vfio/{}", group.number));
    let host = match group.unprotected {
        true => PathBuf::from(format!("/dev/vfio/noiommu-{}", group.number)),
        false => container.clone(),
    };
    Some((host, container))
}

fn uio_file(function: &Candidate) -> Option<&Path> {
    function
        .uio
        .as_deref()
        .filter(|_| is_uio(function.driver.as_deref()))
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// The CDI specification of a pool, of its devices that have files. `None` if none has: a specification must have a device.
pub fn cdi(pool: &Pool, devices: &Devices) -> Option<Value> {
    let nodes = |device| -> Vec<Value> {
        let node = |(host, container): (PathBuf, PathBuf)| json!({"path": text(&container), "hostPath": text(&host), "permissions": "rw"});
        files(device).into_iter().map(node).collect()
    };
    let devices: Vec<Value> = devices
        .iter()
        .map(|(id, device)| (id, nodes(device)))
        .filter(|(_, nodes)| !nodes.is_empty())
        .map(|(id, nodes)| json!({"name": id, "containerEdits": {"deviceNodes": nodes}}))
        .collect();
    // 0.5.0 is the first with hostPath and with names that begin with a digit; runtimes refuse what is newer than they are.
    (!devices.is_empty()).then(|| json!({"cdiVersion": "0.5.0", "kind": pool.resource(), "devices": devices}))
}

/// The device information (device-info-spec 1.1.0) of one device.
pub fn device_info(pool: &Pool, id: &str, device: &Device) -> Value {
    let version = "1.1.0";
    match (device, &pool.kind) {
        (
            Device::Function {
                function,
                rdma,
                vhost_net,
            },
            _,
        ) => {
            let mut pci = json!({"pci-address": id});
            if *vhost_net {
                pci["vhost-net"] = json!("/dev/vhost-net");
            }
            if let Some(of) = function.rdma.as_ref().filter(|_| *rdma) {
                pci["rdma-device"] = json!(of.name);
            }
            if let Some(root) = function
                .root_device
                .as_ref()
                .filter(|_| function.vf_index.is_some())
            {
                pci["pf-pci-address"] = json!(root);
            }
            json!({"type": "pci", "version": version, "pci": pci})
        }
        (Device::Place, kind) => {
            let mount = match kind {
                Kind::VhostUser { mount, .. } => mount.as_path(),
                _ => Path::new("/"),
            };
            let path = text(&mount.join(id).join(PLACE_SOCKET));
            json!({"type": "vhost-user", "version": version, "vhost-user": {"mode": "client", "path": path}})
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::pools::{self, DEFAULT_PREFIX};
    use crate::plugin::{Held, IommuGroup, Rdma, assign};

    fn folders() -> Folders {
        Folders {
            places: "/run/clearway/places".into(),
            hand_over: "/run/clearway/afxdp".into(),
        }
    }

    fn vf(index: u32, driver: &str) -> Candidate {
        Candidate {
            pci: format!("0000:3b:02.{index}"),
            driver: Some(driver.into()),
            root_device: Some("0000:3b:00.0".into()),
            vf_index: Some(index),
            iommu_group: Some(IommuGroup {
                number: 160 + index,
                unprotected: index == 7,
            }),
            rdma: Some(Rdma {
                name: "mlx5_2".into(),
                files: vec!["/dev/infiniband/uverbs2".into(), "/dev/infiniband/rdma_cm".into()],
            }),
            healthy: true,
            ..Candidate::default()
        }
    }

    fn pool(text: Value, candidates: &[Candidate]) -> (Pool, Devices) {
        let pools = pools::from_value(&json!({"resourceList": [text]}), DEFAULT_PREFIX).unwrap();
        let devices = assign(&pools, candidates, Some(&Held::default()), &[]).remove(0);
        (pools.into_iter().next().unwrap(), devices)
    }

    fn ids(ids: &[&str]) -> Vec<String> {
        ids.iter().map(|id| (*id).to_owned()).collect()
    }

    fn info(answer: &ContainerAllocateResponse, name: &str) -> Value {
        serde_json::from_str(&answer.envs[name]).unwrap()
    }

    #[test]
    fn vfio_and_vhost_net() {
        let text = json!({
            "resourceName": "dpdk_nic_1", "selectors": {"needVhostNet": true},
            "additionalInfo": {"*": {"token": "any"}, "0000:3b:02.7": {"token": "own"}},
        });
        let (pool, devices) = pool(text, &[vf(6, "vfio-pci"), vf(7, "vfio-pci")]);
        let two = ids(&["0000:3b:02.7", "0000:3b:02.6"]);
        let answer = give(&pool, &devices, &two, &folders(), false).unwrap();
        assert_eq!(
            answer.envs["PCIDEVICE_INTEL_COM_DPDK_NIC_1"],
            "0000:3b:02.7,0000:3b:02.6"
        );
        let told = info(&answer, "PCIDEVICE_INTEL_COM_DPDK_NIC_1_INFO");
        let vfio = json!({"mount": "/dev/vfio/vfio", "vfio-mount": "/dev/vfio/vfio",
            "dev-mount": "/dev/vfio/166", "vfio-dev-mount": "/dev/vfio/166"});
        let vhost = json!({"net-mount": "/dev/vhost-net", "tun-mount": "/dev/net/tun"});
        let any = json!({"token": "any"});
        let six = json!({"generic": {"deviceID": "0000:3b:02.6"}, "vfio": vfio, "vhost": vhost, "extra": any, "extraInfo": any});
        assert_eq!(told["0000:3b:02.6"], six);
        assert_eq!(told["0000:3b:02.7"]["extraInfo"]["token"], "own");
        let specs: Vec<_> = answer
            .devices
            .iter()
            .map(|s| (s.host_path.as_str(), s.container_path.as_str()))
            .collect();
        let expected = [
            ("/dev/vfio/vfio", "/dev/vfio/vfio"),
            ("/dev/vhost-net", "/dev/vhost-net"),
            ("/dev/net/tun", "/dev/net/tun"),
            ("/dev/vfio/noiommu-167", "/dev/vfio/167"),
            ("/dev/vfio/166", "/dev/vfio/166"),
        ];
        assert_eq!(specs, expected, "each once");
        assert!(answer.devices.iter().all(|spec| spec.permissions == "rw"));
        assert!(answer.mounts.is_empty() && answer.cdi_devices.is_empty());
    }

    #[test]
    fn kernel_vfs_have_no_files_but_rdma() {
        let (pool, devices) = pool(json!({"resourceName": "a"}), &[vf(1, "mlx5_core")]);
        let one = ids(&["0000:3b:02.1"]);
        let answer = give(&pool, &devices, &one, &folders(), false).unwrap();
        assert_eq!(answer.devices, []);
        assert_eq!(
            info(&answer, "PCIDEVICE_INTEL_COM_A_INFO"),
            json!({"0000:3b:02.1": {"generic": {"deviceID": "0000:3b:02.1"}}})
        );
        assert_eq!(
            cdi(&pool, &devices),
            None,
            "a specification must have a device, and a device must have something"
        );

        let (pool, devices) = self::pool(
            json!({"resourceName": "a", "selectors": {"isRdma": true}}),
            &[vf(1, "mlx5_core")],
        );
        let answer = give(&pool, &devices, &one, &folders(), false).unwrap();
        assert_eq!(answer.devices.len(), 2);
        let rdma = json!({"rdma_dev": "mlx5_2", "uverbs": "/dev/infiniband/uverbs2", "rdma_cm": "/dev/infiniband/rdma_cm"});
        assert_eq!(
            info(&answer, "PCIDEVICE_INTEL_COM_A_INFO")["0000:3b:02.1"]["rdma"],
            rdma
        );
    }

    #[test]
    fn uio_has_a_file_of_its_own() {
        let function = Candidate {
            uio: Some("/dev/uio3".into()),
            ..vf(1, "igb_uio")
        };
        let (pool, devices) = pool(json!({"resourceName": "a"}), &[function]);
        let answer = give(&pool, &devices, &ids(&["0000:3b:02.1"]), &folders(), false).unwrap();
        assert_eq!(answer.devices[0].host_path, "/dev/uio3");
        assert_eq!(
            info(&answer, "PCIDEVICE_INTEL_COM_A_INFO")["0000:3b:02.1"]["uio"]["mount"],
            "/dev/uio3"
        );
    }

    #[test]
    fn with_cdi_the_runtime_brings_the_files() {
        let (pool, devices) = pool(json!({"resourceName": "d"}), &[vf(1, "vfio-pci"), vf(2, "iavf")]);
        let both = ids(&["0000:3b:02.1", "0000:3b:02.2"]);
        let answer = give(&pool, &devices, &both, &folders(), true).unwrap();
        let names: Vec<_> = answer
            .cdi_devices
            .iter()
            .map(|device| device.name.as_str())
            .collect();
        assert_eq!(
            names,
            ["intel.com/d=0000:3b:02.1"],
            "the other one has no files, so it is not in the specification"
        );
        assert_eq!(answer.devices, []);
        let node = |path: &str| json!({"path": path, "hostPath": path, "permissions": "rw"});
        let edits = json!({"deviceNodes": [node("/dev/vfio/vfio"), node("/dev/vfio/161")]});
        let expected = json!({"cdiVersion": "0.5.0", "kind": "intel.com/d",
            "devices": [{"name": "0000:3b:02.1", "containerEdits": edits}]});
        assert_eq!(cdi(&pool, &devices), Some(expected));
    }

    #[test]
    fn ports_of_the_fast_path() {
        let (pool, devices) = pool(
            json!({"resourceName": "p", "deviceType": "vhostUser", "count": 2}),
            &[],
        );
        let answer = give(&pool, &devices, &ids(&["p-0", "p-1"]), &folders(), true).unwrap();
        assert_eq!(
            answer.envs["CLEARWAY_VHOST_USER_INTEL_COM_P"],
            "/var/run/clearway/p-0/vhost.sock,/var/run/clearway/p-1/vhost.sock"
        );
        assert_eq!(answer.envs.len(), 1);
        let mount = &answer.mounts[1];
        assert_eq!(mount.host_path, "/run/clearway/places/intel.com_p/p-1");
        assert_eq!(
            (mount.container_path.as_str(), mount.read_only),
            ("/var/run/clearway/p-1", false)
        );
        let told = device_info(&pool, "p-1", &devices["p-1"]);
        assert_eq!(
            told["vhost-user"],
            json!({"mode": "client", "path": "/var/run/clearway/p-1/vhost.sock"})
        );

        let (pool, devices) = self::pool(
            json!({"resourceName": "x", "deviceType": "afXdp"}),
            &[vf(1, "iavf"), vf(2, "iavf")],
        );
        let both = ids(&["0000:3b:02.1", "0000:3b:02.2"]);
        let answer = give(&pool, &devices, &both, &folders(), false).unwrap();
        assert_eq!(answer.mounts.len(), 1);
        assert_eq!(answer.mounts[0].host_path, "/run/clearway/afxdp");
        assert!(answer.mounts[0].read_only);
        assert_eq!(
            answer.envs["CLEARWAY_AF_XDP_INTEL_COM_X"],
            "/tmp/afxdp_dp/clearway/afxdp.sock"
        );
        assert_eq!(answer.envs["PCIDEVICE_INTEL_COM_X"], "0000:3b:02.1,0000:3b:02.2");
    }

    #[test]
    fn device_information_of_a_function() {
        let text = json!({"resourceName": "a", "selectors": {"needVhostNet": true, "isRdma": true}});
        let (pool, devices) = pool(text, &[vf(1, "mlx5_core")]);
        let told = device_info(&pool, "0000:3b:02.1", &devices["0000:3b:02.1"]);
        let pci = json!({"pci-address": "0000:3b:02.1", "vhost-net": "/dev/vhost-net", "rdma-device": "mlx5_2",
            "pf-pci-address": "0000:3b:00.0"});
        assert_eq!(told, json!({"type": "pci", "version": "1.1.0", "pci": pci}));
    }

    #[test]
    fn nothing_is_given_of_what_vanished_or_has_no_link() {
        let down = Candidate {
            healthy: false,
            ..vf(2, "iavf")
        };
        let (pool, devices) = pool(json!({"resourceName": "a"}), &[vf(1, "iavf"), down]);
        let asked =
            |id: &str| give(&pool, &devices, &ids(&["0000:3b:02.1", id]), &folders(), false).unwrap_err();
        assert!(matches!(asked("0000:3b:02.3"), GiveError::Unknown { .. }));
        let error = asked("0000:3b:02.2");
        assert!(
            error.to_string().contains("0000:3b:02.2 of intel.com/a"),
            "{error}"
        );
    }
}
