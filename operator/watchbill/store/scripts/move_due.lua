#!lua flags=allow-oom
-- uses events streams limits clock wake
-- Moves what is due onto the streams, and finds workers that have vanished, for crews without workers. Claims do the
-- same.
-- KEYS fixed
-- ARGV
--   1 uid
--   2 crew
--   3 most                tasks that are moved
-- Answers
--   {'gone'}
--   {'ok', moved, due}    so many were moved, and more is due then, in ms; '': there is none
local uid, crew, most = ARGV[1], ARGV[2], tonumber(ARGV[3])
if is_gone(uid) then return { 'gone' } end
mind_clock()
for _, inc in ipairs(redis.call('ZRANGEBYSCORE', LEASES, '(0', now_ms, 'LIMIT', 0, 100)) do vanished(inc) end
local moved = move_due(most)
if moved > 0 then
  ring()
  wake(crew)
end
local due, soonest = next_due(), limits and limiting().soonest_ms()
if soonest then due = math.min(due or FAR, now_ms + soonest) end
return { 'ok', moved, due and int(due) or '' }
