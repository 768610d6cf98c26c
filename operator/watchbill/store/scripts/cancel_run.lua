#!lua flags=allow-oom
-- uses events running answers streams tasks steps runs ends states results stops
-- From now on no step of this run begins; those that wait for the run's own bound are taken out, at most 500 a call. Then
-- the steps that the caller names are cancelled as `stop` does it; it names what is on a stream, runs, or waits to be tried
-- again or resumed, as far as it knows. The run ends with the last of it.
-- KEYS: fixed; run, steps, results, definition, run events; then per step: agent events
-- ARGV: uid, crew, id, why, ttl ms, control channel, steps (at most 500)
-- -> {'gone'} | {'missing'} | {'over', state} | {'again'} (there is more to take out) | {'ok', state}
if is_gone(ARGV[1]) then return { 'gone' } end
local id, why, ttl = ARGV[3], ARGV[4], ARGV[5]
local k = { run = KEYS[FIXED + 1], steps = KEYS[FIXED + 2], results = KEYS[FIXED + 3], def = KEYS[FIXED + 4],
  run_events = KEYS[FIXED + 5] }
local run = redis.call('HMGET', k.run, 'state', 'active')
local state, active = run[1], tonumber(run[2] or '0')
if not state then return { 'missing' } end
if state ~= 'creating' and state ~= 'running' and state ~= 'cancelling' then return { 'over', state } end
runs = runs_part()
redis.call('HSETNX', k.run, 'why', why)
if state == 'running' then
  redis.call('HSET', k.run, 'state', 'cancelling')
  event('mission_state_changed', '"mission_id":' .. quote(id) .. ',' .. state_change('running', 'cancelling', why), nil,
    k.run_events)
  state = 'cancelling'
end
local members = redis.call('ZRANGEBYLEX', PARKED, '[' .. id .. '/', '(' .. id .. '0', 'LIMIT', 0, 500)
for _, member in ipairs(members) do
  local name = string.sub(member, #id + 9)      -- run id, /, six digits, /
  redis.call('ZREM', PARKED, member)
  local step = read_step(k.steps, name)
  step.state, step.finished = 'skipped', now
  write_step(k.steps, name, step)
end
if #members > 0 then redis.call('HINCRBY', k.run, 'parked', -#members) end      -- Redis 7.0 can't read -0
if #members == 500 then return { 'again' } end
if active == 0 then
  runs.end_run(k, id, ttl)
  keep_results(tonumber(ttl))
else
  for i = 7, #ARGV do
    k.agent_events = KEYS[FIXED + i - 1]
    stop('cancel', why, id .. '/' .. ARGV[i], ttl, k)
  end
end
settle_stops(ARGV[2], ARGV[6], 'cancel', ttl)
return { 'ok', redis.call('HGET', k.run, 'state') }
