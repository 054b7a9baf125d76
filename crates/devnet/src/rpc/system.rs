//! Who this node is.

use jsonrpsee::RpcModule;
use jsonrpsee::core::RegisterMethodError;
use nicompute_market::AccountId;
use serde_json::json;

use super::{Context, error};
use crate::CHAIN_NAME;
use crate::runtime::balances;
use crate::state::Overlay;

pub(super) fn register(module: &mut RpcModule<Context>) -> Result<(), RegisterMethodError> {
    module.register_method("system_chain", |_, _, _| CHAIN_NAME)?;
    module.register_method("system_chainType", |_, _, _| "Local")?;
    module.register_method("system_name", |_, _, _| CHAIN_NAME)?;
    module.register_method("system_version", |_, _, _| env!("CARGO_PKG_VERSION"))?;
    module.register_method(
        "system_health",
        |_, _, _| json!({ "peers": 0, "isSyncing": false, "shouldHavePeers": false }),
    )?;
    module.register_method("system_properties", |_, _, _| {
        json!({ "isEthereum": false, "ss58Format": 42, "tokenDecimals": 9, "tokenSymbol": "TAO" })
    })?;
    module.register_method("system_accountNextIndex", |params, context, _| {
        let account: String = params.one().map_err(|_| error::params("an SS58 address"))?;
        let account: AccountId =
            account.parse().map_err(|_| error::params("the account is not an SS58 address"))?;
        let inner = context.node.read();
        let used = balances::account(&Overlay::new(inner.ledger.state()), account.as_bytes());
        let waiting = inner.pool.waiting_of(account.as_bytes());
        Ok::<_, error::RpcError>(used.nonce.saturating_add(waiting))
    })?;
    module.register_alias("account_nextIndex", "system_accountNextIndex")?;
    Ok(())
}
