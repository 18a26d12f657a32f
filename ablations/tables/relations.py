"""Sec. 6.2: what becomes of SimCLR, SwAV and BYOL with a part of SimSiam, or without a part of their own?

Expected: a predictor, with or without a stop-gradient, does not help SimCLR; a predictor makes SwAV a little worse, and
without its stop-gradient it diverges; BYOL without its momentum encoder is SimSiam, "subject to many implementation
differences". The predictor stands on the side that predicts, all views of the batch (SimCLR) or the codes (SwAV) on the
other. The last two rows are ours: MoCo v2 as it is, and with keys in the queries' order, whose BN then gives the
positive away. The paper's 66.5 are those of 100 epochs in Table 4. Cost: 10 trainings a seed.

`byol_no_momentum` is the recipe's SimSiam, its baseline. BYOL's own heads and optimiser without the momentum encoder
are not tried: of those the first version of BYOL's paper reports 0.3 %, the third 66.9 %, after 300 epochs, with ten
times the lr in h. The paper gives the h that SimCLR and SwAV get no width and no lr. Its width is the recipe's
predictor_hidden, on imagenet 512 at d = 128, which is no bottleneck, on the digits 64; its lr is f's without a warm-up,
on imagenet by a cosine, else constant.
"""

from ablations.table import DOES_NOT_COLLAPSE, ORDERING, UNSTABLE, WITHIN, Claim, Row, Table

TABLE = Table(
    name="relations",
    title="Relations to other methods",
    section="Sec. 6.2",
    varies=("method", "predictor", "stop_gradient", "shuffle_keys"),
    rows=(
        Row(name="simclr", changes={"method": "simclr"}, paper=66.5),
        Row(name="simclr_predictor", changes={"method": "simclr", "predictor": "mlp"}, paper=66.4),
        Row(
            name="simclr_predictor_stop_gradient",
            changes={"method": "simclr", "predictor": "mlp", "stop_gradient": True},
            paper=66.0,
        ),
        Row(name="swav", changes={"method": "swav"}, paper=66.5),
        Row(name="swav_predictor", changes={"method": "swav", "predictor": "mlp"}, paper=65.2),
        Row(name="swav_no_stop_gradient", changes={"method": "swav", "stop_gradient": False}, note="diverges"),
        Row(name="byol", changes={"method": "byol"}, paper=66.5, note="Table 4"),
        Row(name="byol_no_momentum", changes={"method": "simsiam"}, paper=68.1, note="SimSiam, Table 2, batch 512"),
        Row(name="moco", changes={"method": "moco"}, paper=67.4, note="Table 4"),
        Row(name="moco_no_shuffle", changes={"method": "moco", "shuffle_keys": False}),
    ),
    claims=(
        Claim(
            WITHIN,
            ("simclr", "simclr_predictor", "simclr_predictor_stop_gradient"),
            margin=2.0,
            section="Sec. 6.2, SimCLR",
        ),
        Claim(ORDERING, ("swav", "swav_predictor"), section="Sec. 6.2, SwAV"),
        Claim(UNSTABLE, ("swav_no_stop_gradient", "swav"), section="Sec. 6.2, SwAV"),
        Claim(DOES_NOT_COLLAPSE, ("byol_no_momentum",), section="Sec. 6.2, BYOL"),
    ),
)
