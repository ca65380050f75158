//! Which devices pods hold, from the one who knows: the kubelet's podresources API, v1.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::api::podresources::ListPodResourcesRequest;
use super::api::podresources::pod_resources_lister_client::PodResourcesListerClient;
use super::assign::Held;
use super::kubelet::channel;

/// As much as the kubelet sends in one answer.
const MOST_BYTES: usize = 16 << 20;
/// In all, for connecting and the answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// One device that a pod holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holding {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod.
    pub pod: String,
    /// Its container.
    pub container: String,
    /// `intel.com/sriov_net_a`.
    pub resource: String,
    /// The device.
    pub id: String,
}

/// Why it is not known.
#[derive(Debug, thiserror::Error)]
#[error("the kubelet did not say at {socket:?} which devices pods hold: {why}")]
pub struct PodResourcesError {
    socket: PathBuf,
    why: String,
}

/// Asks the kubelet. All devices of all pods, those of other plugins too.
pub async fn holdings(socket: &Path) -> Result<Vec<Holding>, PodResourcesError> {
    let failed = |why: String| PodResourcesError {
        socket: socket.into(),
        why,
    };
    let asked = async {
        let channel = channel(socket).await.map_err(|error| failed(error.to_string()))?;
        let mut client = PodResourcesListerClient::new(channel).max_decoding_message_size(MOST_BYTES);
        let answer = client.list(ListPodResourcesRequest {}).await;
        answer.map_err(|status| failed(format!("{} ({:?})", status.message(), status.code())))
    };
    let answer = tokio::time::timeout(PATIENCE, asked).await;
    let answer = answer.map_err(|_| failed(format!("no answer in {PATIENCE:?}")))??;
    let mut all = Vec::new();
    for pod in answer.into_inner().pod_resources {
        for container in pod.containers {
            for devices in container.devices {
                let holding = |id| Holding {
                    namespace: pod.namespace.clone(),
                    pod: pod.name.clone(),
                    container: container.name.clone(),
                    resource: devices.resource_name.clone(),
                    id,
                };
                all.extend(devices.device_ids.iter().cloned().map(holding));
            }
        }
    }
    Ok(all)
}

impl FromIterator<Holding> for Held {
    fn from_iter<I: IntoIterator<Item = Holding>>(holdings: I) -> Self {
        let mut held = Self::default();
        for holding in holdings {
            held.add(&holding.resource, &holding.id);
        }
        held
    }
}
