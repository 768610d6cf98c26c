#!lua flags=allow-oom
-- uses events streams tasks clock
-- Puts onto the streams what is due, and tells of workers that have vanished: for whoever looks after crews without workers.
-- Claims do the same.
-- KEYS: fixed. ARGV: uid, crew, most of them
-- -> {'gone'} | {'ok', how many, when the next is due in ms ('' = there is none)}
if is_gone(ARGV[1]) then return { 'gone' } end
mind_clock()
for _, inc in ipairs(redis.call('ZRANGEBYSCORE', LEASES, '(0', now_ms, 'LIMIT', 0, 100)) do vanished(inc) end
local moved = move_due(tonumber(ARGV[3]))
if moved > 0 then
  ring()
  wake(ARGV[2])
end
local due = next_due()
return { 'ok', moved, due and int(due) or '' }
