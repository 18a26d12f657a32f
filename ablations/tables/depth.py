"""Ours: how deep must the projector be, and must the predictor have a bottleneck?

The paper has 3 layers in the projector (2 on CIFAR-10, App. D) and h's hidden width at d/4; at d, it says in App. B,
it is less stable or fails in some variants. Cost: 6 trainings a seed, of which the recipe's own appear twice.
"""

from ablations.table import Fields, Row, Table


def _hidden(part: int) -> Row:
    def changes(baseline: Fields) -> Fields:
        return {"predictor_hidden": max(2, baseline["dim"] // part)}

    return Row(name=f"predictor_d/{part}" if part > 1 else "predictor_d", changes=changes)


TABLE = Table(
    name="depth",
    title="Depth of the projector, width of the predictor",
    section="ours",
    varies=("projector_layers", "predictor_hidden"),
    rows=(
        Row(name="projector_2", changes={"projector_layers": 2}),
        Row(name="projector_3", changes={"projector_layers": 3}),
        _hidden(8),
        _hidden(4),
        _hidden(2),
        _hidden(1),
    ),
)
