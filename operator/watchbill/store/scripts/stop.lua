#!lua flags=allow-oom
-- uses events holders answers outbox streams steps runs ends states results limits releases wake stops items
-- Cancels tasks and steps, or interrupts them until somebody resumes them. What a worker holds is asked to stop, if its
-- lease runs; what waits is taken from where it waits, and what a dead worker left from there. At most 500 a call.
-- KEYS fixed, then for each item those of one that may end (lib_items.lua)
-- ARGV
--   1 uid
--   2 crew
--   3 what                cancel | interrupt
--   4 why
--   5 channel             control, on which workers hear of it
--   6 ttl                 for how long records are kept, in ms
--   7 n                   items, each with
--     id
-- Answers
--   {'gone'}
--   {'ok', ...}           for each item: cancelled | interrupted | asked (its worker) | repeated | missing
--                         | over:<state> (it has ended) | busy (it can't be done now: try again)
--                         | unready (a step that waits for others)
local uid, crew, what, why, channel, ttl, n = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6], tonumber(ARGV[7])
if is_gone(uid) then return { 'gone' } end
local outcomes = { 'ok' }
for i = 1, n do
  local id = ARGV[7 + i]
  outcomes[i + 1] = stop(what, why, ttl, next_item(id, true))
end
settle_stops(crew, channel, what, ttl)
return outcomes
