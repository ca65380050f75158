//! The device plugin as a whole: one task that looks, again and again, whether everything is as it should be.
//!
//! ```text
//!   inventory ──► candidates ─┐                      ┌─► device information, CDI
//!                             ├─► assign ─► publish ─┤
//!   podresources ──► held ────┘                      └─► ListAndWatch ─► kubelet
//!
//!   device-plugins/ (inotify) ─► socket gone? serve anew ─► other kubelet.sock? register
//! ```
//!
//! It goes by what is there, not by what has happened: an event that comes twice, late or not at all makes no difference after the next look.

use std::collections::BTreeSet;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::assign::{Device, Devices, Held, assign};
use super::candidate::Candidate;
use super::files::Files;
use super::give::Folders;
use super::kubelet::{Run, Watch, register};
use super::podresources::{Holding, holdings};
use super::pool::Pool;
use super::server::{Resource, Serving};

/// The longest path of a unix socket.
const LONGEST_SOCKET: usize = 107;
/// What pods with `needVhostNet` get.
const VHOST_NET: [&str; 2] = ["/dev/vhost-net", "/dev/net/tun"];
/// Until the next attempt, while something is not as it should be.
const SOON: Duration = Duration::from_secs(1);

/// So long a kubelet may need until it knows the pods that it has.
const YOUNG: Duration = Duration::from_secs(60);

/// Where things are.
#[derive(Clone, Debug)]
pub struct Options {
    /// The kubelet's folder for plugins.
    pub kubelet: PathBuf,
    /// The kubelet's podresources socket.
    pub pod_resources: PathBuf,
    /// Device information for Multus.
    pub device_info: PathBuf,
    /// CDI specifications; `None`: the kubelet gets device files.
    pub cdi: Option<PathBuf>,
    /// Folders of sockets.
    pub folders: Folders,
    /// How often to look without a reason.
    pub every: Duration,
    /// How long the kubelet may take to call back. Then the registration is thought to be lost.
    pub call_back: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            kubelet: "/var/lib/kubelet/device-plugins".into(),
            pod_resources: "/var/lib/kubelet/pod-resources/kubelet.sock".into(),
            device_info: "/var/run/k8s.cni.cncf.io/devinfo/dp".into(),
            cdi: None,
            folders: Folders {
                places: "/run/clearway/vhost-user".into(),
                hand_over: "/run/clearway/afxdp".into(),
            },
            every: Duration::from_secs(10),
            call_back: Duration::from_secs(15),
        }
    }
}

/// Why the plugin does not run.
#[derive(Debug, thiserror::Error)]
pub enum PluginError {
    /// No unix socket can have that name.
    #[error(
        "the socket {0:?} would have a path of more than {LONGEST_SOCKET} bytes; take a shorter resourceName or resourcePrefix"
    )]
    LongPath(PathBuf),
    /// There is no inotify left.
    #[error(
        "the kubelet's folder {folder:?} cannot be watched: {source}; raise fs.inotify.max_user_instances"
    )]
    Watch {
        /// The folder.
        folder: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// Serves the pools until `stop`. `candidates` are all network functions of the host, anew whenever something changes; when their sender goes,
/// what it said last stays.
pub async fn run(
    options: Options,
    pools: Vec<Pool>,
    mut candidates: watch::Receiver<Vec<Candidate>>,
    stop: impl Future<Output = ()>,
) -> Result<(), PluginError> {
    for pool in &pools {
        let path = options.kubelet.join(Serving::name(pool));
        if path.as_os_str().len() > LONGEST_SOCKET {
            return Err(PluginError::LongPath(path));
        }
    }
    let mut watch = Watch::new(&options.kubelet).map_err(|source| PluginError::Watch {
        folder: options.kubelet.clone(),
        source,
    })?;
    let mut plugin = Plugin::new(options, pools);
    // Wherever it waits for the kubelet, the end need not.
    tokio::select! {
        biased;
        () = stop => {}
        () = plugin.work(&mut watch, &mut candidates) => {}
    }
    plugin.end();
    Ok(())
}

struct Plugin {
    options: Options,
    resources: Vec<One>,
    assigned: Vec<Devices>,
    /// The kubelet, and since when it is known.
    kubelet: Option<(Run, Instant)>,
    /// Who holds what is not there any more, as far as it was said.
    missed: BTreeSet<(String, String)>,
    /// What was said last of podresources.
    unknown: Said,
    /// And of vhost-net.
    vhost_net: Said,
}

/// One resource.
struct One {
    resource: Arc<Resource>,
    serving: Option<Serving>,
    /// At which kubelet, and when.
    registered: Option<(Run, Instant)>,
    files: Files,
    said: Said,
}

/// A failure that goes on is said once.
#[derive(Default)]
struct Said(Option<String>);

impl Said {
    fn warn(&mut self, what: String) {
        if self.0.as_ref() != Some(&what) {
            tracing::warn!("{what}");
            self.0 = Some(what);
        }
    }

    fn fine(&mut self) {
        self.0 = None;
    }
}

impl Plugin {
    fn new(options: Options, pools: Vec<Pool>) -> Self {
        let one = |pool| One {
            resource: Resource::new(pool, options.folders.clone(), options.cdi.is_some()),
            serving: None,
            registered: None,
            files: Files::default(),
            said: Said::default(),
        };
        Self {
            resources: pools.into_iter().map(one).collect(),
            assigned: Vec::new(),
            kubelet: None,
            missed: BTreeSet::new(),
            unknown: Said::default(),
            vhost_net: Said::default(),
            options,
        }
    }

    async fn work(&mut self, watch: &mut Watch, candidates: &mut watch::Receiver<Vec<Candidate>>) {
        let mut listening = true;
        loop {
            watch.look();
            let list = candidates.borrow_and_update().clone();
            self.refresh(&list).await;
            let calm = self.settle().await;
            let pause = if calm {
                self.options.every
            } else {
                SOON.min(self.options.every)
            };
            let mut pause = pin!(tokio::time::sleep(pause));
            loop {
                tokio::select! {
                    changed = candidates.changed(), if listening => {
                        listening = changed.is_ok();
                        if listening { break }
                    }
                    // The folder has the kubelet's own files too: they are no reason to ask it anything.
                    () = watch.changed() => if !self.is_settled() { break },
                    () = &mut pause => break,
                }
            }
        }
    }

    /// Which devices there are now, and where they belong.
    async fn refresh(&mut self, candidates: &[Candidate]) {
        let held = match holdings(&self.options.pod_resources).await {
            Ok(holdings) => {
                self.unknown.fine();
                self.miss(&holdings, candidates);
                let mut held = holdings.into_iter().collect::<Held>();
                self.trust_no_young_kubelet(&mut held);
                Some(held)
            }
            Err(error) => {
                // Before the first kubelet there is nothing that it could say.
                if Run::now(&self.options.kubelet).is_some() {
                    self.unknown
                        .warn(format!("{error}; devices stay in the pools they are in"));
                }
                None
            }
        };
        let pools: Vec<Pool> = self
            .resources
            .iter()
            .map(|one| one.resource.pool.clone())
            .collect();
        let mut assigned = assign(&pools, candidates, held.as_ref(), &self.assigned);
        self.without_vhost_net(&mut assigned);
        for (one, devices) in self.resources.iter_mut().zip(&assigned) {
            let pool = &one.resource.pool;
            let (information, specifications) = (&self.options.device_info, self.options.cdi.as_deref());
            let mut errors = one.files.write(pool, devices, information, specifications);
            one.resource.publish(devices);
            errors.extend(one.files.remove_gone(pool, devices, information));
            for error in errors {
                tracing::warn!("{}: {error}", pool.resource());
            }
        }
        self.assigned = assigned;
    }

    /// A kubelet that has just started does not know all its pods yet: nothing leaves a pool because of what it says.
    fn trust_no_young_kubelet(&mut self, held: &mut Held) {
        let Some(run) = Run::now(&self.options.kubelet) else {
            return;
        };
        if self.kubelet.is_none_or(|(before, _)| before != run) {
            self.kubelet = Some((run, Instant::now()));
        }
        if self.kubelet.is_some_and(|(_, seen)| seen.elapsed() < YOUNG) {
            for (one, devices) in self.resources.iter().zip(&self.assigned) {
                let resource = one.resource.pool.resource();
                devices.keys().for_each(|id| held.add(&resource, id));
            }
        }
    }

    /// Says of which devices of ours pods hold that are not there.
    fn miss(&mut self, holdings: &[Holding], candidates: &[Candidate]) {
        let functions: BTreeSet<&str> = candidates.iter().map(|function| function.pci.as_str()).collect();
        let ours = |resource: &str| {
            self.resources
                .iter()
                .any(|one| one.resource.pool.resource() == resource && !one.resource.pool.has_places())
        };
        let mut missed = BTreeSet::new();
        for of in holdings {
            if ours(&of.resource) && !functions.contains(of.id.as_str()) {
                let key = (of.resource.clone(), of.id.clone());
                if !self.missed.contains(&key) {
                    let (namespace, pod, id, resource) = (&of.namespace, &of.pod, &of.id, &of.resource);
                    tracing::warn!(
                        "pod {namespace}/{pod} holds {id} of {resource}, which is not there any more"
                    );
                }
                missed.insert(key);
            }
        }
        self.missed = missed;
    }

    /// A container with files that are not there would not start.
    fn without_vhost_net(&mut self, assigned: &mut [Devices]) {
        let Some(missing) = VHOST_NET.iter().find(|file| !Path::new(file).exists()) else {
            self.vhost_net.fine();
            return;
        };
        for device in assigned.iter_mut().flat_map(|devices| devices.values_mut()) {
            if let Device::Function { vhost_net, .. } = device
                && std::mem::take(vhost_net)
            {
                let what = format!(
                    "needVhostNet: pods get neither of {VHOST_NET:?}, as {missing} is not there; load vhost_net and tun"
                );
                self.vhost_net.warn(what);
            }
        }
    }

    /// Sockets and registrations. False: something is still to be done.
    async fn settle(&mut self) -> bool {
        let folder = self.options.kubelet.clone();
        for one in &mut self.resources {
            one.serve(&folder);
        }
        for one in &mut self.resources {
            // One that does not answer does not answer the others either.
            if !one.register(&folder, self.options.call_back).await {
                return false;
            }
        }
        self.is_settled()
    }

    fn is_settled(&self) -> bool {
        let kubelet = Run::now(&self.options.kubelet);
        let settled = |one: &One| {
            let serving = one.serving.as_ref().is_some_and(Serving::is_there);
            serving && one.registered.map(|(run, _)| run) == kubelet
        };
        // Without a kubelet there is nobody to register at.
        self.resources.iter().all(settled)
    }

    fn end(&mut self) {
        for one in &mut self.resources {
            one.resource.end();
            if let Some(serving) = one.serving.take() {
                serving.remove();
            }
            one.files.end();
        }
    }
}

impl One {
    /// The kubelet removes all sockets when it starts.
    fn serve(&mut self, folder: &Path) {
        if self.serving.as_ref().is_some_and(Serving::is_there) {
            return;
        }
        self.registered = None;
        self.serving = None;
        match Serving::start(&self.resource, folder) {
            Ok(serving) => self.serving = Some(serving),
            Err(error) => {
                let name = self.resource.pool.resource();
                self.said
                    .warn(format!("{name} cannot be served in {folder:?}: {error}"));
            }
        }
    }

    async fn register(&mut self, folder: &Path, call_back: Duration) -> bool {
        let kubelet = Run::now(folder);
        let (Some(kubelet), Some(_)) = (kubelet, &self.serving) else {
            self.registered = None;
            return self.serving.is_some();
        };
        let name = self.resource.pool.resource();
        if let Some((run, when)) = self.registered {
            let heard = self.resource.watchers() > 0 || when.elapsed() < call_back;
            if run == kubelet && heard {
                return true;
            }
            if run == kubelet {
                tracing::warn!("the kubelet does not listen for {name}; it is registered again");
            }
        }
        match register(folder, &self.resource.pool).await {
            Ok(()) => {
                self.said.fine();
                tracing::info!("{name} is registered at the kubelet");
                self.registered = Some((kubelet, Instant::now()));
                true
            }
            Err(error) => {
                self.registered = None;
                self.said.warn(format!("{name} is not registered: {error}"));
                false
            }
        }
    }
}
