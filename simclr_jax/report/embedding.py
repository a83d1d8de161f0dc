"""Pictures of the features: a 2-D map of test images, and their nearest neighbours."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int
from threadpoolctl import threadpool_limits

from simclr_jax.report import figures, markup
from simclr_jax.report.contents import Embedding

MAX_POINTS = 1500  # on the map
MIN_POINTS = 10  # fewer have no neighbourhoods to show
MAX_COLORED = 20  # classes with a colour and marker of their own
MAX_NAMED = 12  # more names on the map would hide each other
NUM_QUERIES = 12
NUM_NEIGHBORS = 8
NOT_EMBEDDED = "Nothing was embedded for this report."


def spread(labels: Int[np.ndarray, " n"], num: int) -> Int[np.ndarray, " m"]:
    """Returns up to `num` row numbers, evenly spaced over the rows sorted by label."""
    order = np.argsort(labels, kind="stable")
    return order[np.linspace(0, len(order) - 1, min(num, len(order))).astype(int)]


def project_2d(features: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n 2"]:
    """Maps rows to the plane so that near neighbours by cosine stay near.

    PCA to at most 50 dimensions, then t-SNE (van der Maaten and Hinton 2008) from the PCA, with a
    fixed seed: the same features give the same map.
    """
    # Here: they take longer to import than all else that `import simclr_jax` leads to.
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    rows = _unit_rows(features)
    pca = PCA(min(50, *rows.shape), random_state=0)
    tsne = TSNE(perplexity=min(30.0, (len(rows) - 1) / 3), init="pca", random_state=0)
    # One thread: the order of sums is fixed, and on a busy machine t-SNE's many short parallel
    # regions wait for each other so long that one thread is several times faster.
    with threadpool_limits(1):
        return tsne.fit_transform(pca.fit_transform(rows))


def nearest(
    features: Float[np.ndarray, "n d"], queries: Int[np.ndarray, " q"], num: int
) -> tuple[Int[np.ndarray, "q k"], Float[np.ndarray, "q k"]]:
    """Returns the `num` rows nearest to each query by cosine, nearest first, and the cosines.

    A query is not its own neighbour; k is less than `num` only if there are too few rows.
    """
    rows = _unit_rows(features)
    cosines = rows[queries] @ rows.T  # [q, n]
    cosines[np.arange(len(queries)), queries] = -np.inf
    order = np.argsort(-cosines, axis=1, kind="stable")[:, : min(num, len(rows) - 1)]
    return order, np.take_along_axis(cosines, order, axis=1)


def map_section(embedding: Embedding | None, class_names: Sequence[str]) -> str:
    """Returns the section with the 2-D map, or the reason why there is none."""
    heading = ("map", "Map of the features")
    problem = _problem(embedding)
    if embedding is None or problem:
        return markup.section(*heading, markup.missing(problem))
    chosen = spread(embedding.labels, MAX_POINTS)
    labels = embedding.labels[chosen]
    points = project_2d(embedding.features[chosen])
    known = [int(label) for label in np.unique(labels) if label >= 0]
    counts = {label: int((labels == label).sum()) for label in known}
    colored = sorted(sorted(known, key=lambda label: -counts[label])[:MAX_COLORED])
    groups, items = [], []
    others = np.flatnonzero(~np.isin(labels, colored))
    if len(others):
        groups.append(figures.Group(others, "random" if known else "encoder", "o"))
    if len(others) and known:
        items.append(("var(--random)", "o", "other classes or unlabelled"))
    for i, label in enumerate(colored):
        color = figures.CLASS_COLORS[i % len(figures.CLASS_COLORS)]
        marker = "os^D"[i % 4]  # with ten colours: no two of twenty classes share both
        name = class_name(label, class_names)
        note = name if len(name) <= 14 else f"{name[:12]}..."
        note = note if len(colored) <= MAX_NAMED else ""
        groups.append(figures.Group(np.flatnonzero(labels == label), color, marker, note))
        items.insert(i, (color, marker, name))
    svg = figures.map_chart(
        "map", f"Two-dimensional map of test {embedding.examples}", points, groups
    )
    what = (
        "Look for classes that form islands of one colour, though no label was used to place a"
        " point"
        if known
        else f"These {embedding.examples} have no labels, so all have one colour; look for islands"
    )
    caption = (
        f"{markup.count(len(chosen))} test {embedding.examples}, t-SNE of the encoder's output."
        f" {what}. Distances between far islands and the directions of the axes mean nothing."
    )
    key = markup.legend(items) if items else ""
    body = f'<div class="map"><div>{svg}</div>{key}</div>'
    return markup.section(*heading, f"<figure>{body}<figcaption>{caption}</figcaption></figure>")


def neighbors_section(embedding: Embedding | None, class_names: Sequence[str]) -> str:
    """Returns the section with the nearest neighbours of a few test images."""
    heading = ("neighbors", "Nearest neighbours")
    problem = _problem(embedding)
    if embedding is None or problem:
        return markup.section(*heading, markup.missing(problem))
    queries = spread(embedding.labels, NUM_QUERIES)
    found, cosines = nearest(embedding.features, queries, NUM_NEIGHBORS)
    cards = []
    for query, row, similar in zip(queries.tolist(), found.tolist(), cosines.tolist(), strict=True):
        cells = [_cell(embedding, query, None, "", class_names)]
        for i, cosine in zip(row, similar, strict=True):
            cells.append(_cell(embedding, i, query, f", cosine {cosine:.2f}", class_names))
        cards.append(f'<li class="neighbors">{"".join(cells)}</li>')
    labels = embedding.labels
    judged = (labels[queries] >= 0)[:, None] & (labels[found] >= 0)
    agree = judged & (labels[found] == labels[queries][:, None])
    caption = (
        f"The large picture is one of the test {embedding.examples}; beside it those whose features"
        " are nearest to its own by cosine, nearest first. "
    )
    if judged.any():
        caption += (
            f"{agree.sum()} of the {judged.sum()} neighbours shown have the class of the large"
            " picture: solid blue frame and &#10003;. A dashed orange frame and &#10007; mark"
            f" another class. The {embedding.examples} are spaced evenly over the classes, not"
            " picked by result."
        )
    else:
        caption += "They have no labels: judge by eye whether neighbours show the same thing."
    return markup.section(
        *heading, f'<p class="note">{caption}</p>', f'<ul class="cards">{"".join(cards)}</ul>'
    )


def class_name(label: int, class_names: Sequence[str]) -> str:
    """Returns the name of a class, its number if it has no name; plain text."""
    return str(class_names[label]) if 0 <= label < len(class_names) else str(label)


def _cell(
    embedding: Embedding, i: int, query: int | None, extra: str, class_names: Sequence[str]
) -> str:
    """Returns one picture with its name; `query` is the image it is a neighbour of, if any."""
    label, name = int(embedding.labels[i]), str(embedding.names[i])
    shown = class_name(label, class_names) if label >= 0 else name
    kind, mark = "query" if query is None else "neighbor", ""
    if query is not None and label >= 0 and embedding.labels[query] >= 0:
        same = label == embedding.labels[query]
        kind, mark = ("same", "&#10003; ") if same else ("other", "&#10007; ")
    title = (name if shown == name else f"{name}, class {shown}") + extra
    image = markup.picture(embedding.thumbnails[i], title)
    return f'<div class="{kind}">{image}<span>{mark}{markup.escape(shown)}</span></div>'


def _problem(embedding: Embedding | None) -> str:
    """Returns why these features cannot be shown, "" if they can; HTML."""
    if embedding is None:
        return NOT_EMBEDDED
    features = embedding.features
    if len(features) < MIN_POINTS:
        few = f"Only {len(features)} test {embedding.examples}"
        return f"{few}: this needs at least {MIN_POINTS}."
    if not np.isfinite(features).all():
        return "Some features are not finite numbers, so they cannot be compared."
    if np.ptp(_unit_rows(features), axis=0).max() < 1e-6:
        return f"All test {embedding.examples} have the same features: the encoder has collapsed."
    return ""


def _unit_rows(features: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
    rows = features.astype(np.float32)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
