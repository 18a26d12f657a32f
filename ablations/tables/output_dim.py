"""App. B: how many channels d must z have? The predictor's hidden layer has d/4 throughout.

Expected: more is better, 65.3 at 256 to 68.1 at 2048. Cost: 4 trainings a seed.
"""

from ablations.table import ORDERING, WORSE, Claim, Fields, Row, Table


def _dim(name: str, part: int, paper: float) -> Row:
    def changes(baseline: Fields) -> Fields:
        dim = baseline["dim"] // part
        return {"dim": dim, "predictor_hidden": dim // 4}

    return Row(name=name, changes=changes, paper=paper)


TABLE = Table(
    name="output_dim",
    title="Output dimension",
    section="App. B",
    varies=("dim", "predictor_hidden"),
    rows=(_dim("d/8", 8, 65.3), _dim("d/4", 4, 67.2), _dim("d/2", 2, 67.5), _dim("d", 1, 68.1)),
    claims=(
        Claim(ORDERING, ("d", "d/2", "d/4", "d/8"), section="App. B"),
        Claim(WORSE, ("d/8", "d"), margin=1.0, section="App. B"),
    ),
)
