"""The columns of every file and table, declared once: name, DuckDB type, and what it means.

The stages write parquet files with these columns, the store makes tables of them with a COMMENT on each column, and
docs/schema.md is generated from here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

FLAG_FDR: Final = 0.1
"""Pairs with an fdr of at most this are what reports and the view ``flagged`` call flagged."""
TRAIT_P: Final = 0.05
"""A trait whose ``trait_p`` is at most this may be a reason to look at a pair, and is said to be one."""
LEAST_VERSIONS: Final = 8
"""So many versions of one picture may be a reason to look at them, and are said to be one."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a file and table."""

    name: str
    type: str  # DuckDB type
    comment: str


PAIRS: tuple[Column, ...] = (
    Column(
        "uid",
        "VARCHAR",
        "Identity of the pair, 32 hex characters, unique in the run: the data set's own (DataComp) where it "
        "has one, else derived from key, caption and image",
    ),
    Column("shard", "VARCHAR", "Name of the shard, relative to the scanned folder"),
    Column("key", "VARCHAR", "WebDataset key of the pair; may repeat, chosen by whoever made the shard"),
    Column("ordinal", "UINTEGER", "Position of the pair in its shard, from 0"),
    Column(
        "caption", "VARCHAR", "The caption as scanned; bytes that are not UTF-8 are replaced by U+FFFD (see problems)"
    ),
    Column("url", "VARCHAR", "Where the image came from, if the shard says so"),
    Column("caption_source", "VARCHAR", "Where the caption was found: txt, json or parquet"),
    Column("uid_given", "BOOLEAN", "True if the uid came with the data, false if it was derived"),
    Column("image_ext", "VARCHAR", "Extension of the image member"),
    Column("image_offset", "UBIGINT", "Offset of the image's bytes in the shard"),
    Column("image_bytes", "UBIGINT", "Size of the image member in bytes"),
    Column("image_sha256", "VARCHAR", "SHA-256 of the image member as it lies in the shard"),
    Column("width", "UINTEGER", "Width in pixels, after decoding; null if it could not be decoded"),
    Column("height", "UINTEGER", "Height in pixels, after decoding; null if it could not be decoded"),
    Column("dhash", "UBIGINT", "64-bit difference hash of the decoded image"),
    Column(
        "scored",
        "BOOLEAN",
        "True if the pair has evidence; false if it has no caption or no readable image (see problems)",
    ),
)

PROBLEMS: tuple[Column, ...] = (
    Column("shard", "VARCHAR", "Name of the shard"),
    Column("ordinal", "UINTEGER", "Position of the pair in its shard; null if the whole shard is concerned"),
    Column("key", "VARCHAR", "WebDataset key; null if the whole shard is concerned"),
    Column("stage", "VARCHAR", "Stage that found it: index or encode"),
    Column("reason", "VARCHAR", "Kind of problem, one of a fixed list (docs/schema.md)"),
    Column("detail", "VARCHAR", "What exactly was found"),
    Column("fatal", "BOOLEAN", "True if the pair (or the rest of the shard) could not be scored because of it"),
)

EVIDENCE: tuple[Column, ...] = (
    Column("uid", "VARCHAR", "Identity of the pair"),
    Column("suspicion", "DOUBLE", "P(caption and image are unrelated), 0 to 1, calibrated by re-pairing"),
    Column("fdr", "DOUBLE", "Expected share of sound pairs among this one and all at least as suspicious, 0 to 1"),
    Column(
        "risk",
        "DOUBLE",
        "How much the pair deserves a look, for any reason, 0 to 1; the order of every list. Not a probability",
    ),
    Column("risk_reason", "VARCHAR", "What risk rests on most: pairing, trait or duplicates"),
    Column(
        "p_value",
        "DOUBLE",
        "P(an unrelated caption scores no higher), 0 to 1: uniform if unrelated, near 0 if caption and image fit",
    ),
    Column(
        "statistic",
        "DOUBLE",
        "The one statistic that suspicion is calibrated on: power mean of all rank shares q, 0 to 1",
    ),
    Column(
        "q",
        "DOUBLE",
        "Rank share, image to captions, worst view: share of distinct captions nearer to the image than its "
        "own; 0 = best, about uniform if unrelated",
    ),
    Column(
        "q_caption",
        "DOUBLE",
        "Rank share, caption to images, worst view: share of images nearer to the caption than its own",
    ),
    Column("q_by_view", "DOUBLE[]", "q of every view, in the order of runs.views"),
    Column("worst_view", "VARCHAR", "The view that q is taken from"),
    Column(
        "q_beside",
        "DOUBLE",
        "q by the joint encoder that was asked beside the embedded one, whole view; null without one",
    ),
    Column("q_caption_beside", "DOUBLE", "q_caption by it"),
    Column("cosine", "DOUBLE", "Cosine of image and own caption in the aligned space, whole view, -1 to 1"),
    Column(
        "cosine_z",
        "DOUBLE",
        "Own cosine against the pool's, in standard deviations of the pool, sign turned: higher = more suspicious",
    ),
    Column(
        "trained_cosine",
        "DOUBLE",
        "Cosine of image and own caption under heads that were trained on every pair, this one too, -1 to 1: low where "
        "the pair is hard to learn; null with a joint encoder",
    ),
    Column(
        "win_probability", "DOUBLE", "Probability that the own caption wins one contest against runs.pool_size others"
    ),
    Column("win_probability_64", "DOUBLE", "The same against 64 others"),
    Column("win_probability_1024", "DOUBLE", "The same against 1,024 others"),
    Column("wins", "DOUBLE", "Contests won out of rounds: counted (--contest sampled) or expected (closed form)"),
    Column("rounds", "UINTEGER", "Number of pools, M"),
    Column("never_wins_probability", "DOUBLE", "Probability that the own caption wins none of the rounds"),
    Column(
        "never_wins",
        "BOOLEAN",
        "True if the own caption never wins: no round won (sampled) or never_wins_probability >= 0.5 (closed form)",
    ),
    Column(
        "caption_disagreement",
        "DOUBLE",
        "How little the own caption agrees with the captions of the image's nearest images, near-duplicates "
        "excluded; share of captions that agree better, 0 to 1",
    ),
    Column(
        "image_disagreement",
        "DOUBLE",
        "How little the image agrees with the images of the caption's nearest captions; share of images that "
        "agree better, 0 to 1",
    ),
    Column(
        "trait_p",
        "DOUBLE",
        "P(an image shares as much fine structure with images of re-paired captions), 0 to 1; small where it shares "
        "more with the images of its own caption's vicinity than chance explains",
    ),
    Column("texture", "DOUBLE", "Shared texture (noise, stripes), in spreads of re-paired controls"),
    Column("patch", "DOUBLE", "Shared patch at the same place, in spreads of re-paired controls"),
    Column("patch_x", "DOUBLE", "Middle of the place that patch speaks of, share of the image's width, 0 to 1"),
    Column("patch_y", "DOUBLE", "The same, share of the image's height"),
    Column(
        "stamp",
        "UINTEGER",
        "Number of what repeats in images that are otherwise unlike, under captions that are alike; null if the image "
        "shows nothing of the kind",
    ),
    Column(
        "stamp_kind",
        "VARCHAR",
        "What repeats: place (a detail at one place), window (a detail wherever it lies), grain (the fine structure of "
        "the whole picture), tone (its colours and contrasts) or bend (how it is warped); null without one",
    ),
    Column("n_stamp", "UINTEGER", "Pairs whose image shows it, this one too; 0 without one"),
    Column(
        "anomaly",
        "DOUBLE",
        "How unusual the pair is for reasons other than the match (density, duplicates), 0 to 1; not calibrated",
    ),
    Column("k_distance", "DOUBLE", "Distance from the image to its k-th nearest reference image"),
    Column("lid", "DOUBLE", "Local intrinsic dimensionality of the image among the reference images"),
    Column("slof", "DOUBLE", "Simplified local outlier factor of the image"),
    Column("dao", "DOUBLE", "Dimensionality-aware outlier score of the image, log form"),
    Column("duplicate_group", "UINTEGER", "Number of the group of near-duplicate images"),
    Column("n_duplicates", "UINTEGER", "Pairs in the duplicate group"),
    Column("n_duplicate_captions", "UINTEGER", "Distinct captions in the duplicate group"),
    Column("same_group", "UINTEGER", "Number of the group of pairs that show the same picture"),
    Column("n_same", "UINTEGER", "Pairs that show the same picture, this one too; saved again at most"),
    Column("n_same_captions", "UINTEGER", "Distinct captions of those"),
    Column(
        "n_conflicts", "UINTEGER", "Of those captions, the ones (up to 64) that say something else than the own one"
    ),
    Column(
        "n_versions",
        "UINTEGER",
        "Pairs that show a version of the picture, this one too: cropped by a few per cent, brighter or darker, or one "
        "of a family that differs by a line",
    ),
    Column("family", "UINTEGER", "Number of the family of look-alike images, such as the pieces of a puzzle"),
    Column("n_caption_repeats", "UINTEGER", "Pairs in the run with the same caption"),
    Column("fold", "UTINYINT", "Fold whose heads scored the pair; they saw neither it nor its duplicate group"),
)

RIVALS: tuple[Column, ...] = (
    Column("uid", "VARCHAR", "Identity of the pair"),
    Column("rank", "UTINYINT", "1 for the caption that beats the own one by most"),
    Column("rival_uid", "VARCHAR", "A pair that carries the rival caption"),
    Column("cosine", "DOUBLE", "Cosine of the image and the rival caption, in the worst view"),
    Column("margin", "DOUBLE", "Rival's cosine minus the own caption's; above 0 the rival wins"),
    Column("text_similarity", "DOUBLE", "Cosine of the rival caption and the own one in the text encoder's space"),
)

NEIGHBOURS: tuple[Column, ...] = (
    Column("uid", "VARCHAR", "Identity of the pair"),
    Column("kind", "VARCHAR", "image: near by picture; caption: near by text"),
    Column("rank", "UTINYINT", "1 for the nearest"),
    Column("neighbour_uid", "VARCHAR", "The neighbouring pair"),
    Column("similarity", "DOUBLE", "Centred cosine of the two images, or cosine of the two captions"),
)

# What the data set as a whole has: groups of suspicious pairs.

CAMPAIGNS: tuple[Column, ...] = (
    Column("campaign", "UINTEGER", "Number of the campaign, from 1, the most significant first"),
    Column("kind", "VARCHAR", "What its pairs share: stamp, duplicate_image, captions, trait, domain or shard"),
    Column("label", "VARCHAR", "What names it: words, a domain, a shard; text of the scanned data"),
    Column("n_pairs", "UBIGINT", "Pairs in the group"),
    Column("n_suspicious", "UBIGINT", "Suspicious pairs among them; of a stamp all"),
    Column("share", "DOUBLE", "n_suspicious / n_pairs"),
    Column("base_rate", "DOUBLE", "The same share among the pairs outside of the group"),
    Column(
        "p_value",
        "DOUBLE",
        "P(so many suspicious pairs or more in a group of this size by chance); of a stamp, P(captions so alike)",
    ),
    Column(
        "p_corrected",
        "DOUBLE",
        "The same, corrected for the groups that were tested and their kinds",
    ),
    Column("sentence", "VARCHAR", "What was found, in words"),
    Column("trigger_png", "VARCHAR", "What its images share, a PNG in the run folder; null if nothing was recovered"),
    Column("trigger_x", "DOUBLE", "Left edge of the recovered trigger, as a share of the image's width"),
    Column("trigger_y", "DOUBLE", "Upper edge of the recovered trigger, as a share of the image's height"),
    Column("trigger_width", "DOUBLE", "Width of the recovered trigger, as a share of the image's width"),
    Column("trigger_height", "DOUBLE", "Height of the recovered trigger, as a share of the image's height"),
)

CAMPAIGN_PAIRS: tuple[Column, ...] = (
    Column("campaign", "UINTEGER", "Number of the campaign"),
    Column("uid", "VARCHAR", "A pair of the group; a pair may be in several campaigns"),
    Column("suspicious", "BOOLEAN", "True if it is one of the suspicious ones"),
)

# What only the database has: one row about the run, its shards, and what people decided.

RUNS: tuple[Column, ...] = (
    Column("schema_version", "UINTEGER", "Version of these tables; a newer one needs a newer roclip-audit"),
    Column("version", "VARCHAR", "Version of roclip-audit that scanned"),
    Column("encoder", "VARCHAR", "Encoder that the pairs were judged with"),
    Column("encoder_fingerprint", "VARCHAR", "Hash of the weights and of everything else that changes embeddings"),
    Column("views", "VARCHAR[]", "Purified views of each image, the whole image first"),
    Column("pool_size", "UBIGINT", "Captions in the pool of a contest, P"),
    Column("rounds", "UINTEGER", "Number of pools, M"),
    Column("seed", "BIGINT", "Seed that all randomness of the run derives from"),
    Column("parameters", "JSON", "All other settings of the scan"),
    Column("n_pairs", "UBIGINT", "Pairs found in the shards"),
    Column("n_scored", "UBIGINT", "Pairs with evidence"),
    Column("n_problems", "UBIGINT", "Rows in problems"),
    Column("contamination", "DOUBLE", "Estimated share of mismatched pairs among the scored ones, 0 to 1"),
    Column("contamination_low", "DOUBLE", "Lower end of the interval of contamination"),
    Column("contamination_high", "DOUBLE", "Upper end of the interval of contamination"),
)

SHARDS: tuple[Column, ...] = (
    Column("shard", "VARCHAR", "Name of the shard, relative to the scanned folder"),
    Column("path", "VARCHAR", "Where the shard lay when it was scanned"),
    Column("bytes", "UBIGINT", "Size of the shard in bytes"),
    Column("fingerprint", "VARCHAR", "What the scan recognises the unchanged shard by"),
    Column("n_pairs", "UBIGINT", "Pairs found in the shard; 0 if it could not be read (see problems)"),
)

DECISIONS: tuple[Column, ...] = (
    Column("uid", "VARCHAR", "Identity of the pair; it may be gone from the run, the decision stays for its return"),
    Column("verdict", "VARCHAR", "keep or drop; stronger than every rule"),
    Column("note", "VARCHAR", "Why, in the words of whoever decided"),
    Column("decided_at", "TIMESTAMP", "When, UTC"),
    Column("reviewer", "VARCHAR", "Who decided"),
)

DECISION_HISTORY: tuple[Column, ...] = (
    Column("line", "UBIGINT", "Place in the log, from 0; the last line about a pair counts"),
    Column("uid", "VARCHAR", "Identity of the pair"),
    Column("verdict", "VARCHAR", "keep, drop, or clear: as if nothing had been decided"),
    Column("note", "VARCHAR", "Why, in the words of whoever decided"),
    Column("decided_at", "TIMESTAMP", "When, UTC"),
    Column("reviewer", "VARCHAR", "Who decided"),
    Column("action", "VARCHAR", "The same for all that was decided at once"),
    Column("undoes", "VARCHAR", "The action that this line takes back; null for a decision of its own"),
)

# quarantine/reasons.parquet of `curate`: what was left out and where it lies now.

QUARANTINE: tuple[Column, ...] = (
    Column("uid", "VARCHAR", "Identity of the pair; null for a member that belongs to no pair"),
    Column("shard", "VARCHAR", "Name of the shard it came from"),
    Column("key", "VARCHAR", "WebDataset key; name of the member if it belongs to no pair"),
    Column("ordinal", "UINTEGER", "Position of the pair in its shard; null for a member that belongs to no pair"),
    Column("reason", "VARCHAR", "Why it was left out"),
    Column("new_shard", "VARCHAR", "Tar in the quarantine folder that holds its original bytes"),
)

# What is known of the fetching: shards of img2dataset say it in the parquet beside them, `fetch` in its own folder.

FETCHED: tuple[Column, ...] = (
    Column("shard", "VARCHAR", "Name of the shard; null for a row of the list that was not tried"),
    Column("key", "VARCHAR", "WebDataset key that the URL got; null for a row of the list that was not tried"),
    Column("ordinal", "UINTEGER", "Position of its pair in the shard; null if it gave none"),
    Column("url", "VARCHAR", "The URL that was tried; cut if it was too long to be one"),
    Column("status", "VARCHAR", "success, failed_to_download, failed_to_resize or rejected (not tried)"),
    Column("reason", "VARCHAR", "Why it gave no pair, one of a fixed list (docs/schema.md); null if it did"),
    Column("detail", "VARCHAR", "What exactly was found"),
    Column("sha256", "VARCHAR", "SHA-256 of the downloaded file, before it was encoded anew"),
    Column("published_hash", "VARCHAR", "What the list says that the hash is, kind:hex"),
    Column("hash_matches", "BOOLEAN", "Whether the two agree; null where they cannot be compared"),
    Column("list_row", "UBIGINT", "Row of the list, from 1, if `fetch` made the shard"),
)

REJECTED: tuple[Column, ...] = (
    Column("list_file", "VARCHAR", "File of the list"),
    Column("list_row", "UBIGINT", "Row in that file, from 1, without a header"),
    Column("url", "VARCHAR", "What stood in the place of the URL, made harmless and cut"),
    Column("reason", "VARCHAR", "Why the row was not tried, one of a fixed list (docs/schema.md)"),
    Column("detail", "VARCHAR", "What exactly was found"),
)

# fetch/rechecks/DATE.parquet of `fetch --recheck`.

RECHECKED: tuple[Column, ...] = (
    Column("shard", "VARCHAR", "Shard of the pair"),
    Column("key", "VARCHAR", "WebDataset key of the pair"),
    Column("url", "VARCHAR", "The URL that was downloaded again"),
    Column("domain", "VARCHAR", "Its host"),
    Column("outcome", "VARCHAR", "same, changed (other content), gone (dead link) or failed (nothing to go by)"),
    Column("reason", "VARCHAR", "Why it is not the same, one of the reasons of fetched"),
    Column("detail", "VARCHAR", "What exactly was found"),
    Column("sha256_before", "VARCHAR", "SHA-256 when the shard was made"),
    Column("sha256_now", "VARCHAR", "SHA-256 now; null if nothing came"),
)
