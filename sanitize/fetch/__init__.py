"""From lists of URLs to shards: read the list, drive img2dataset behind a guard, and look again later."""
