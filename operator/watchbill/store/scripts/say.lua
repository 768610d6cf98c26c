#!lua flags=allow-oom
-- uses events holders items
-- An agent says something on the feed, while the task is still its own.
-- KEYS fixed, then those of the item (lib_items.lua)
-- ARGV
--   1 uid
--   2 inc
--   3 id
--   4 fence
--   5 message
--   6 number              of the message, from 1, so that a repeat is known
-- Answers gone | fenced | unknown | stale | ok
local uid, inc, id, fence, message, number = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local bar = barred(uid, inc)
if bar then return bar end
local h = holder(id)
if not holds(h, inc, fence) then return 'stale' end
if tonumber(h.said) >= tonumber(number) then return 'ok' end
h.said = number
hold(id, h)
item_event(next_item(id), 'mission_event', h.agent, message)
return 'ok'
