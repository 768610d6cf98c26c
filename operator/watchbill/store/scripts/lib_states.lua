-- States of what has ended.
local ENDED = { completed = true, failed = true, dead = true, cancelled = true, skipped = true }
