-- States of what has ended.
-- uses nothing

local ENDED = { completed = true, failed = true, dead = true, cancelled = true, skipped = true }
