#!lua flags=allow-oom
-- uses streams tasks
-- Somebody waits for a task, or a run, to end: tells whoever ends it to say so on their channel.
-- KEYS: fixed; then task, run. ARGV: channel
-- -> over (it has ended, or isn't there) | ok
local task, run = KEYS[FIXED + 1], KEYS[FIXED + 2]
local known = redis.call('HMGET', task, 'state', 'finished')
if known[1] then
  if known[2] then return 'over' end
  subscribe(task, ARGV[1])
  return 'ok'
end
local state = redis.call('HGET', run, 'state')
if state ~= 'creating' and state ~= 'running' and state ~= 'cancelling' then return 'over' end
subscribe(run, ARGV[1])
return 'ok'
