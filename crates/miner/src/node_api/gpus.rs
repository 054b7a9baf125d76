//! `GET /v1/leases/{id}/gpus`: the driver's words about the GPUs of a lease, for its holder.

use std::sync::Arc;

use axum::extract::{Extension, Path, State};
use axum::response::Response;
use nicompute_wire::gpus::{GpuHealthView, LeaseGpusView};

use super::leases::lease_id;
use super::refusal::{Refusal, json};
use super::{Api, Caller};
use crate::gpus::GpuWatch;

/// The node's watch over its GPUs, where it has one.
pub(super) type Watch = Extension<Option<Arc<GpuWatch>>>;

pub(super) async fn gpus(
    State(api): State<Arc<Api>>,
    Extension(watch): Watch,
    Extension(caller): Caller,
    Path(id): Path<String>,
) -> Result<Response, Refusal> {
    let lease = api.held(lease_id(&id)?, &caller).await?;
    let view = watch.as_ref().map_or_else(
        || {
            let unknown = |uuid: &String| GpuHealthView {
                uuid: uuid.clone(),
                state: "unknown".to_owned(),
                ..GpuHealthView::default()
            };
            let gpus = lease.terms.share.gpus.iter().map(unknown).collect();
            LeaseGpusView { driver: "none".to_owned(), answer_age_ms: None, gpus }
        },
        |watch| watch.view(&lease),
    );
    Ok(json(200, &view))
}
