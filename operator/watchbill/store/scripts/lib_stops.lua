-- How somebody stops tasks and steps: cancels them, or interrupts them until they are resumed.
-- uses running answers streams tasks steps runs ends states results

local asked = {}                -- whose workers are to hear of it

-- Takes it off its stream, or from beside them. Whether that was done, whether it counted among its run's active steps, and
-- when it was due.
local function withdraw(k, id, run_id, name, step, h, state, class, agent, attempt, entry)
  local next = int(attempt + 1)
  if h then
    release(id, h)
  elseif state == 'delayed' then
    local member = delayed_name(id, class, agent, next)
    local due = redis.call('ZSCORE', DELAYED, member)
    return redis.call('ZREM', DELAYED, member) == 1, true, due
  elseif state == 'parked' then
    if redis.call('ZREM', PARKED_AGENT, agent .. FS .. class .. FS .. id .. FS .. next) == 1 then return true, true end
    if not step or redis.call('ZREM', PARKED, runs.parked_name(run_id, name, step.index)) == 0 then return false, true end
    redis.call('HINCRBY', k.run, 'parked', -1)
    return true, false
  elseif state == 'interrupted' then
    return redis.call('ZREM', PARKED_INTERRUPT, id) == 1, true
  elseif step and (step.left > 0 or state == 'waiting' and entry == '') then
    return true, false      -- it waits for other steps, or became ready after its run was cancelled
  elseif entry and entry ~= '' then
    local found = redis.call('XRANGE', STREAM[class], entry, entry)
    for i = 1, found[1] and #found[1][2] or 0, 2 do
      if found[1][2][i] == 'id' and found[1][2][i + 1] == id then return redis.call('XDEL', STREAM[class], entry) == 1, true end
    end
    return false, true
  else
    return false, true
  end
  return true, true
end

-- Whether nobody can be at work on it though it is held: the lease of its holder is over, or there is none.
local function is_left(h)
  if not h or h.inc == RETURNED then return false end
  local until_ms = redis.call('ZSCORE', LEASES, h.inc)
  return not until_ms or tonumber(until_ms) <= now_ms
end

-- `k`: its keys; `ttl`: ms that its record is kept once it has ended. Returns what stop.lua says of an item.
local function stop(what, why, id, ttl, k)
  local step, state, agent, class, attempt, entry, reply, run_state, spent
  local run_id, name = string.match(id, '^([^/]+)/(.*)$')
  if run_id then
    local run = redis.call('HMGET', k.run, 'class', 'state')
    step, class, run_state = run[1] and read_step(k.steps, name), run[1], run[2]
    if step then state, agent, attempt, entry, spent = step.state, step.agent, step.attempt, step.entry, step.spent end
    runs = runs or runs_part()
  else
    local task = redis.call('HMGET', k.task, 'state', 'agent', 'class', 'attempt', 'entry', 'reply', 'spent')
    state, agent, class, attempt, entry, reply, spent = task[1], task[2], task[3], task[4] or '0', task[5], task[6], task[7] or ''
  end
  if not state then return 'missing' end
  local h = holder(id)
  if ENDED[state] or run_state and run_state ~= 'running' and run_state ~= 'cancelling' then
    return what == 'cancel' and state == 'cancelled' and 'repeated' or 'over:' .. (ENDED[state] and state or run_state)
  elseif what == 'interrupt' and state == 'interrupted' then
    return 'repeated'
  elseif what == 'interrupt' and h and wish_of(id) == 'cancel' then
    return 'over:cancelling'
  end
  local left = is_left(h)
  if h and h.inc ~= RETURNED then asked[#asked + 1] = id end      -- one that is taken for dead may be alive
  if h and h.inc ~= RETURNED and not left then
    redis.call('HSET', WISHES, id, what .. ' ' .. ttl .. ' ' .. why)
    if what == 'cancel' then set_state(step and 's' or 't', step and k.steps or k.task, name, 'cancelling') end
    return 'asked'
  elseif what == 'interrupt' and step and run_state == 'cancelling' then
    return 'over:cancelling'
  elseif what == 'interrupt' and step and step.left > 0 and state == 'waiting' then
    return 'unready'
  end
  local started = left and h.started or '0'
  if h then attempt = int(tonumber(h.attempt) - (started == '0' and 1 or 0)) end      -- what hadn't begun didn't count
  if left and h.known ~= '0' then count(agent, -1, k.agent_events) end
  local done, active, due = withdraw(k, id, run_id, name, step, h, state, class, agent, tonumber(attempt), entry)
  if h and wish_of(id) then redis.call('HDEL', WISHES, id) end
  if what == 'cancel' then
    -- Where it wasn't found it was due, and is on a stream by now: whoever takes it there is told that it has ended.
    if not active then redis.call('HINCRBY', k.run, 'active', 1) end      -- `conclude` counts it off
    local result, message = cancelled_result(id, agent, attempt, why, spent)
    conclude(k, id, run_id, name, step, true, reply, agent, attempt, int(now_us), started, 'cancelled', result, ttl, spent, message)
    return 'cancelled'
  elseif done then
    if not active then redis.call('HINCRBY', k.run, 'active', 1) end      -- as if it had been on its stream
    set_aside(k, id, run_id, name, step, agent, attempt, int(now_us), why, due or 0, spent)
    return 'interrupted'
  end
  return 'busy'
end

-- Ends every script that stops.
local function settle_stops(crew, channel, what, ttl)
  index_ended()
  if concluded > 0 then keep_results(tonumber(ttl)) end
  settle()
  send_answers()
  if #asked > 0 then redis.call('PUBLISH', channel, what .. FS .. table.concat(asked, FS)) end
  if enqueued and queued() > redis.call('HLEN', RUNNING) then
    ring()
    wake(crew)
  end
end
