//! The metadata is what every client builds on.

use frame_metadata::{RuntimeMetadata, RuntimeMetadataPrefixed};
use nicompute_devnet::Profile;
use parity_scale_codec::Decode as _;

use crate::harness::{config, start};

/// A client that cannot decode the metadata can do nothing at all.
#[tokio::test]
async fn both_versions_decode_in_both_profiles() {
    for profile in [Profile::Flat, Profile::Modern] {
        let dir = tempfile::tempdir().unwrap();
        let mut config = config(dir.path());
        config.profile = profile;
        let up = start(config).await.unwrap();
        let text = up.ask("state_getMetadata", vec![]).await;
        let bytes = hex::decode(&text.as_str().unwrap()[2..]).unwrap();
        let metadata = RuntimeMetadataPrefixed::decode(&mut &bytes[..]).unwrap().1;
        let RuntimeMetadata::V14(v14) = metadata else { panic!("not V14") };
        let subtensor = v14.pallets.iter().find(|pallet| pallet.name == "SubtensorModule").unwrap();
        assert_eq!(subtensor.index, 7);
        let storage = subtensor.storage.as_ref().unwrap();
        let superset = storage.entries.iter().any(|entry| entry.name == "SubnetEpochConsensus");
        assert_eq!(superset, profile == Profile::Flat);

        let params = vec!["Metadata_metadata_at_version".into(), "0x0f000000".into()];
        let text = up.ask("state_call", params).await;
        let bytes = hex::decode(&text.as_str().unwrap()[2..]).unwrap();
        let opaque = Option::<Vec<u8>>::decode(&mut &bytes[..]).unwrap().unwrap();
        let metadata = RuntimeMetadataPrefixed::decode(&mut &opaque[..]).unwrap().1;
        let RuntimeMetadata::V15(v15) = metadata else { panic!("not V15") };
        assert!(v15.apis.iter().any(|api| api.name == "NeuronInfoRuntimeApi"));
        assert_eq!(v15.extrinsic.signed_extensions.len(), 13);
        assert!(
            v15.types
                .types
                .iter()
                .any(|ty| { ty.ty.path.segments.last().is_some_and(|name| name == "NetUid") })
                == (profile == Profile::Modern)
        );
    }
}
