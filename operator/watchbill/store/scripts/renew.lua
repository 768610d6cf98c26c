#!lua flags=allow-oom
-- uses streams leases clock
-- KEYS: fixed. ARGV: uid, incarnation, lease ms, what `watchbill status` shows of it
-- -> {'gone'} | {'fenced'} | {'ok', draining?, per task of its own that somebody wants to stop: id, cancel | interrupt}
local bar = barred(ARGV[1], ARGV[2])
if bar then return { bar } end
local inc = ARGV[2]
mind_clock()
keep_lease(inc, tonumber(ARGV[3]))
redis.call('HSET', WORKERS, inc, ARGV[4])
local answer = { 'ok', redis.call('HEXISTS', META, 'drain:' .. (string.match(inc, '^(.*)%.[^.]*$') or inc)) }
local wishes = redis.call('HGETALL', WISHES)
for i = 1, #wishes, 2 do
  local held = redis.call('HGET', RUNNING, wishes[i])
  if held and string.sub(held, 1, #inc + 1) == inc .. FS then
    answer[#answer + 1] = wishes[i]
    answer[#answer + 1] = string.match(wishes[i + 1], '^%a+')
  end
end
return answer
