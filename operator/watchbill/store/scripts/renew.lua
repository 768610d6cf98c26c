#!lua flags=allow-oom
-- uses streams leases clock wake
-- Keeps an incarnation alive. Its first call says that a worker has come: others may leave now.
-- KEYS fixed
-- ARGV
--   1 uid
--   2 inc
--   3 lease_ms
--   4 description         what `watchbill status` shows of it
-- Answers
--   {'gone'}
--   {'fenced'}
--   {'unknown'}
--   {'ok', draining?, ...}    for each task of its own that somebody wants to stop: id, cancel | interrupt
local uid, inc, lease_ms, description = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]
local bar = barred(uid, inc)
if bar then return { bar } end
mind_clock()
renew_lease(inc, lease_ms)
if redis.call('HSET', WORKERS, inc, description) == 1 then wake(string.match(META, '{(.-)}'), true) end
local answer = { 'ok', redis.call('HEXISTS', META, 'drain:' .. (string.match(inc, '^(.*)%.[^.]*$') or inc)) }
local wishes = redis.call('HGETALL', WISHES)
for i = 1, #wishes, 2 do
  local id, wish = wishes[i], wishes[i + 1]
  local held = redis.call('HGET', HOLDERS, id)
  if held and string.sub(held, 1, #inc + 1) == inc .. FS then
    answer[#answer + 1] = id
    answer[#answer + 1] = string.match(wish, '^%a+')
  end
end
return answer
