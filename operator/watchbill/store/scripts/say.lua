#!lua flags=allow-oom
-- uses events running
-- An agent says something on the feed, while the task is still its own.
-- KEYS: fixed; agent events, run events (or agent events again: no run)
-- ARGV: uid, incarnation, id, fence, message, its number, from 1 (so that a repeat is known)
-- -> 'gone' | 'fenced' | 'stale' | 'ok'
local bar = barred(ARGV[1], ARGV[2])
if bar then return bar end
local h = holder(ARGV[3])
if not holds(h, ARGV[2], ARGV[4]) then return 'stale' end
if tonumber(h.said) >= tonumber(ARGV[6]) then return 'ok' end
h.said = ARGV[6]
hold(ARGV[3], h)
local run_id = string.match(ARGV[3], '^([^/]+)/')
local run_events = run_id and KEYS[FIXED + 2]
event('mission_event', about(h.agent, ARGV[3], run_id, ARGV[5]), KEYS[FIXED + 1], run_events)
return 'ok'
