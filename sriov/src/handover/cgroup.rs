//! Which pod and container a process is in, from `/proc/PID/cgroup` (cgroups(7), "/proc files").
//!
//! ```text
//!   cgroupfs driver   /kubepods/burstable/pod<uid>/<id>                      cri-o: …/crio-<id>
//!   systemd driver    /kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod<uid_>.slice/cri-containerd-<id>.scope
//!                     cri-o: crio-<id>.scope        docker: docker-<id>.scope
//!   kubelet: systemd, runtime: cgroupfs             /system.slice/containerd.service/kubepods-pod<uid_>.slice:cri-containerd:<id>
//!   without pods      /docker/<id>    /system.slice/docker-<id>.scope    /machine.slice/libpod-<id>.scope
//! ```
//!
//! Guarantees: **the outermost** folder that names a pod or a container decides. What is below it belongs to the
//! workload, which may make cgroups of any name there; what is above it belongs to the host. Version 1 has a line
//! per controller: those that name a workload have to name the same one. What lies in `user.slice` is no workload,
//! because the host's users may make cgroups of any name there.

/// What a process runs in, as the kernel tells it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Workload {
    /// A container of a pod.
    Pod {
        /// The pod's uid: a UUID, or 32 hexadecimal digits for a static pod.
        uid: String,
        /// The container's id at the runtime, where the cgroup tells it.
        container: Option<String>,
    },
    /// A container without a pod, of docker or podman.
    Container {
        /// Its id at the runtime.
        id: String,
    },
}

impl std::fmt::Display for Workload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Pod { uid, container } => {
                write!(f, "pod {uid}")?;
                match container {
                    Some(id) => write!(f, " container {}", id.get(..12).unwrap_or(id)),
                    None => Ok(()),
                }
            }
            Self::Container { id } => write!(f, "container {}", id.get(..12).unwrap_or(id)),
        }
    }
}

/// Why a process is in no workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CgroupError {
    /// It runs on the host itself.
    #[error("its cgroup is that of no pod and no container")]
    NoWorkload,
    /// The lines of version 1 name several.
    #[error("its cgroups name more than one pod or container")]
    Ambiguous,
}

/// The workload that the text of a `/proc/PID/cgroup` names.
pub fn workload(text: &str) -> Result<Workload, CgroupError> {
    let mut found = None;
    for line in text.lines() {
        // hierarchy id : controllers : path, which may have colons.
        let Some(path) = line.splitn(3, ':').nth(2) else {
            continue;
        };
        let Some(named) = of_path(path) else {
            continue;
        };
        found = Some(match found {
            None => named,
            Some(before) => agreed(before, named)?,
        });
    }
    found.ok_or(CgroupError::NoWorkload)
}

/// One controller may be set up to the pod's level only; beyond that, all say the same.
fn agreed(a: Workload, b: Workload) -> Result<Workload, CgroupError> {
    match (a, b) {
        (a, b) if a == b => Ok(a),
        (Workload::Pod { uid, container: None }, Workload::Pod { uid: same, container })
        | (
            Workload::Pod { uid, container },
            Workload::Pod {
                uid: same,
                container: None,
            },
        ) if uid == same => Ok(Workload::Pod { uid, container }),
        _ => Err(CgroupError::Ambiguous),
    }
}

/// The outermost workload of one path.
fn of_path(path: &str) -> Option<Workload> {
    // The kernel's mark of a cgroup that was removed: the container that had it is gone.
    if path.ends_with(" (deleted)") {
        return None;
    }
    let mut above = None;
    let mut parts = path.split('/').filter(|part| !part.is_empty());
    while let Some(part) = parts.next() {
        if part == "user.slice" {
            return None;
        }
        // A folder of the systemd driver that a runtime took for a name of its own.
        if let Some((slice, container)) = part.split_once(':') {
            if let Some(uid) = pod_of_slice(slice) {
                let container = container.split_once(':').and_then(|(_, id)| container_id(id));
                return Some(Workload::Pod { uid, container });
            }
        } else if let Some(uid) = pod_of_slice(part).or_else(|| pod_of_folder(above, part)) {
            let container = parts.next().and_then(container_of);
            return Some(Workload::Pod { uid, container });
        } else if let Some(id) = container_of(part) {
            return Some(Workload::Container { id });
        }
        above = Some(part);
    }
    None
}

/// systemd driver: `kubepods[-QOS]-pod<uid>.slice`, with `_` for `-`; in front there may be the kubelet's own root.
fn pod_of_slice(part: &str) -> Option<String> {
    let (class, pod) = part.strip_suffix(".slice")?.rsplit_once('-')?;
    let root = class
        .strip_suffix("-besteffort")
        .or_else(|| class.strip_suffix("-burstable"))
        .unwrap_or(class);
    if root != "kubepods" && !root.ends_with("-kubepods") {
        return None;
    }
    pod_uid(&pod.strip_prefix("pod")?.replace('_', "-"))
}

/// cgroupfs driver: `pod<uid>` in `kubepods` or in the folder of a class. A reader in a cgroup namespace of its own
/// sees `..` in the place of what is above its root (cgroup_namespaces(7)).
fn pod_of_folder(above: Option<&str>, part: &str) -> Option<String> {
    match above? {
        "kubepods" | "besteffort" | "burstable" | ".." => pod_uid(part.strip_prefix("pod")?),
        _ => None,
    }
}

/// A UUID; a static pod has the 32 digits of a hash.
fn pod_uid(uid: &str) -> Option<String> {
    let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_hexdigit());
    let uuid = uid.split('-').map(str::len).eq([8, 4, 4, 4, 12]) && uid.split('-').all(digits);
    let hash = uid.len() == 32 && digits(uid);
    (uuid || hash).then(|| uid.to_ascii_lowercase())
}

/// `[runtime-]<id>[.scope]`. Not `crio-conmon-<id>.scope`: that is the runtime's process, not the container's.
fn container_of(part: &str) -> Option<String> {
    let name = part.strip_suffix(".scope").unwrap_or(part);
    match name.rsplit_once('-') {
        None => container_id(name),
        Some(("cri-containerd" | "crio" | "docker" | "libpod" | "nerdctl", id)) => container_id(id),
        Some(_) => None,
    }
}

/// 64 hexadecimal digits, as all these runtimes make them.
fn container_id(id: &str) -> Option<String> {
    let hex = |byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    (id.len() == 64 && id.bytes().all(hex)).then(|| id.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "0f5c7a34-6d2e-4b1f-9a53-1c2d3e4f5a6b";
    const UID_: &str = "0f5c7a34_6d2e_4b1f_9a53_1c2d3e4f5a6b";
    const OTHER: &str = "99999999-6d2e-4b1f-9a53-1c2d3e4f5a6b";
    const STATIC: &str = "5e1f3c0d9b7a48625e1f3c0d9b7a4862";
    const ID: &str = "3b9f1c0d5e7a2468ace013579bdf02468ace13579bdf02468ace13579bdf0246";
    const ID2: &str = "ffff1c0d5e7a2468ace013579bdf02468ace13579bdf02468ace13579bdf0246";

    fn pod(uid: &str, container: Option<&str>) -> Result<Workload, CgroupError> {
        Ok(Workload::Pod {
            uid: uid.to_owned(),
            container: container.map(str::to_owned),
        })
    }

    fn v2(path: &str) -> Result<Workload, CgroupError> {
        workload(&format!("0::{path}\n"))
    }

    #[test]
    fn systemd_driver() {
        for class in ["", "-burstable", "-besteffort"] {
            for scope in ["cri-containerd", "crio", "docker"] {
                let middle = if class.is_empty() {
                    String::new()
                } else {
                    format!("/kubepods{class}.slice")
                };
                let path =
                    format!("/kubepods.slice{middle}/kubepods{class}-pod{UID_}.slice/{scope}-{ID}.scope");
                assert_eq!(v2(&path), pod(UID, Some(ID)), "{path}");
                assert_eq!(v2(&format!("{path}/init")), pod(UID, Some(ID)), "{path}");
            }
        }
    }

    #[test]
    fn cgroupfs_driver() {
        for class in ["", "/burstable", "/besteffort"] {
            for container in [ID.to_owned(), format!("crio-{ID}")] {
                let path = format!("/kubepods{class}/pod{UID}/{container}");
                assert_eq!(v2(&path), pod(UID, Some(ID)), "{path}");
            }
        }
        assert_eq!(v2(&format!("/kubepods/pod{STATIC}/{ID}")), pod(STATIC, Some(ID)));
        assert_eq!(
            v2(&format!("/my/root/kubepods/pod{UID}/{ID}")),
            pod(UID, Some(ID))
        );
    }

    #[test]
    fn version_1_has_a_line_for_each_controller() {
        let path = format!("/kubepods/besteffort/pod{UID}/{ID}");
        let lines =
            format!("12:cpu,cpuacct:{path}\n11:memory:{path}\n2:name=systemd:{path}\n1:rdma:/\n0::/\n");
        assert_eq!(workload(&lines), pod(UID, Some(ID)));
        let shallow = format!("12:cpu,cpuacct:/kubepods/besteffort/pod{UID}\n{lines}");
        assert_eq!(workload(&shallow), pod(UID, Some(ID)));
        let deep_first = format!("{lines}5:pids:/kubepods/besteffort/pod{UID}\n");
        assert_eq!(workload(&deep_first), pod(UID, Some(ID)));
        for other in [format!("pod{OTHER}/{ID}"), format!("pod{UID}/{ID2}")] {
            let lines = format!("{lines}5:pids:/kubepods/besteffort/{other}\n");
            assert_eq!(workload(&lines), Err(CgroupError::Ambiguous), "{other}");
        }
        let mixed = format!("{lines}5:pids:/docker/{ID}\n");
        assert_eq!(workload(&mixed), Err(CgroupError::Ambiguous));
    }

    #[test]
    fn a_runtime_that_takes_the_slice_for_a_name() {
        for prefix in ["/system.slice/containerd.service/", "/"] {
            let path = format!("{prefix}kubepods-besteffort-pod{UID_}.slice:cri-containerd:{ID}");
            assert_eq!(v2(&path), pod(UID, Some(ID)), "{path}");
            let old = workload(&format!("4:memory:{path}\n"));
            assert_eq!(old, pod(UID, Some(ID)), "{path}");
        }
    }

    #[test]
    fn a_kubelet_in_a_container_and_a_reader_in_a_namespace() {
        let inside = format!(
            "/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/\
             kubelet-kubepods-burstable-pod{UID_}.slice/cri-containerd-{ID}.scope"
        );
        assert_eq!(v2(&inside), pod(UID, Some(ID)));
        // From outside the node is a container, and so is all that is in it.
        let node = Ok(Workload::Container { id: ID2.to_owned() });
        assert_eq!(v2(&format!("/docker/{ID2}{inside}")), node);
        for path in [
            format!("/../../pod{UID}/{ID}"),
            format!("/../../kubepods-burstable-pod{UID_}.slice/cri-containerd-{ID}.scope"),
            format!("/../../../burstable/pod{UID}/{ID}"),
        ] {
            assert_eq!(v2(&path), pod(UID, Some(ID)), "{path}");
        }
    }

    #[test]
    fn containers_without_a_pod() {
        for path in [
            format!("/docker/{ID}"),
            format!("/system.slice/docker-{ID}.scope"),
            format!("/machine.slice/libpod-{ID}.scope/container"),
            format!("/libpod_parent/libpod-{ID}"),
            format!("/system.slice/nerdctl-{ID}.scope"),
        ] {
            assert_eq!(v2(&path), Ok(Workload::Container { id: ID.to_owned() }), "{path}");
        }
    }

    #[test]
    fn what_a_workload_makes_below_its_own_cgroup_changes_nothing() {
        let own = format!("/kubepods/burstable/pod{UID}/{ID}");
        for below in [
            format!("/kubepods/burstable/pod{OTHER}/{ID2}"),
            format!(
                "/kubepods.slice/kubepods-pod{}.slice/crio-{ID2}.scope",
                OTHER.replace('-', "_")
            ),
            format!("/docker/{ID2}"),
            "/user.slice".to_owned(),
        ] {
            assert_eq!(v2(&format!("{own}{below}")), pod(UID, Some(ID)), "{below}");
        }
        let bare = format!("/docker/{ID}/kubepods/pod{OTHER}/{ID2}");
        assert_eq!(v2(&bare), Ok(Workload::Container { id: ID.to_owned() }));
    }

    #[test]
    fn the_pod_is_known_where_the_container_is_not() {
        for last in ["", "/crio-conmon-", "/sandbox-"] {
            let tail = if last.is_empty() {
                String::new()
            } else {
                format!("{last}{ID}.scope")
            };
            let path = format!("/kubepods.slice/kubepods-pod{UID_}.slice{tail}");
            assert_eq!(v2(&path), pod(UID, None), "{path}");
        }
    }

    #[test]
    fn the_host_and_what_only_looks_like_a_pod() {
        let user = "/user.slice/user-1000.slice/user@1000.service";
        for path in [
            "/".to_owned(),
            "/system.slice/sshd.service".to_owned(),
            "/init.scope".to_owned(),
            format!("{user}/kubepods.slice/kubepods-pod{UID_}.slice/crio-{ID}.scope"),
            format!("{user}/app.slice/docker-{ID}.scope"),
            format!("/system.slice/x.service/pod{UID}/sub"),
            format!("/kubepods/pod{UID}/{ID} (deleted)"),
            format!("/kubepods/pod{}", &UID[1..]),
            "/kubepods/pod../x".to_owned(),
            "/kubepods/podnot-a-uid".to_owned(),
            format!("/kubepods.slice/kubepods-burst-pod{UID_}.slice"),
            format!("/notkubepods-pod{UID_}.slice"),
            format!("/system.slice/libpod-conmon-{ID}.scope"),
            format!("/{}", ID.to_uppercase()),
        ] {
            assert_eq!(v2(&path), Err(CgroupError::NoWorkload), "{path}");
        }
        for text in ["", "\n", "::", "0:", "garbage", "0::", "\u{0}:::::"] {
            assert_eq!(workload(text), Err(CgroupError::NoWorkload), "{text:?}");
        }
    }

    #[test]
    fn what_the_log_shows() {
        assert_eq!(
            pod(UID, Some(ID)).expect("a pod").to_string(),
            format!("pod {UID} container 3b9f1c0d5e7a")
        );
        assert_eq!(pod(UID, None).expect("a pod").to_string(), format!("pod {UID}"));
        let bare = Workload::Container { id: ID.to_owned() };
        assert_eq!(bare.to_string(), "container 3b9f1c0d5e7a");
    }
}
