-- Who holds which task, and which agents work.
-- uses events

-- A value of `holders` (packed.Holder in Python): incarnation, fence, class, entry, attempt, when it was started (ms;
-- 0: it is claimed and not started), what is known of that (0: nothing, 1: it is counted in `agents`, 2: the feeds
-- say it, too), agent, number of the last thing it said.
local HOLDER = '^([^\31]*)\31(%d*)\31(%d)\31([^\31]*)\31(%d*)\31(%d*)\31(%d)\31([^\31]*)\31(%d*)$'

local function unpack_holder(packed)
  if not packed then return nil end
  local inc, fence, class, entry, attempt, started, known, agent, said = string.match(packed, HOLDER)
  return { inc = inc, fence = fence, class = class, entry = entry, attempt = attempt, started = started, known = known,
    agent = agent, said = said }
end

local function pack_holder(h)
  return h.inc .. FS .. h.fence .. FS .. h.class .. FS .. h.entry .. FS .. h.attempt .. FS .. h.started .. FS .. h.known
    .. FS .. h.agent .. FS .. h.said
end

local function holder(id) return unpack_holder(redis.call('HGET', HOLDERS, id)) end

local function hold(id, h) redis.call('HSET', HOLDERS, id, pack_holder(h)) end

local function holds(h, inc, fence) return h and h.inc == inc and h.fence == fence end

-- The packed value of a task that is being claimed, which may begin with that. Every claimed task comes by here, so
-- there is no table. `held_as`: incarnation, fence, class and entry, packed.
local function pack_claimed(held_as, attempt, agent, begins)
  if begins then return held_as .. FS .. attempt .. FS .. now .. FS .. '1' .. FS .. agent .. FS .. '0' end
  return held_as .. FS .. attempt .. FS .. '0' .. FS .. '0' .. FS .. agent .. FS .. '0'
end

-- The packed value once its task has begun, and the agent, if it must be counted; nil where it isn't held so, or has
-- begun. Every task that waits its turn comes by here, so this takes apart no more than it needs.
local function pack_as_begun(packed, inc, fence)
  if not packed or string.find(packed, inc .. FS .. fence .. FS, 1, true) ~= 1 then return nil end
  local head, known, agent, said = string.match(packed, '^(.*)\0310\031([012])\031([^\031]*)\031(%d+)$')
  if not head then return nil end
  local begun = head .. FS .. now .. FS .. (known == '0' and '1' or known) .. FS .. agent .. FS .. said
  return begun, known == '0' and agent
end

-- What somebody wants of this task (cancel | interrupt), for how long its record is kept then, in ms, and why
-- (packed.Wish in Python); nil where nobody wants it to stop.
local wished = redis.call('EXISTS', WISHES) == 1
local function wish_of(id)
  local wish = wished and redis.call('HGET', WISHES, id)
  if wish then return string.match(wish, '^(%a+) (%d+) (.*)$') end
end

-- agents: how many tasks each runs. Changes are summed up over a call, so that an agent that goes from one task to the
-- next is not said to be idle between them. meta's `working:` fields: the agents that the feeds say to work.
local movers, moved, feeds = {}, {}, {}
local function count(agent, n, feed)
  local so_far = moved[agent]
  if not so_far then
    movers[#movers + 1] = agent
    so_far = 0
  end
  moved[agent] = so_far + n
  if feed then feeds[agent] = feed end
end

local known_to_work = {}
local function working(agent, feed)
  if known_to_work[agent] or role_of(agent) then return end
  known_to_work[agent] = true
  if redis.call('HSETNX', META, 'working:' .. agent, '1') == 1 then
    event('agent_state_changed', '"agent_id":' .. quote(agent) .. ',' .. state_change('idle', 'working', ''), feed)
  end
end

-- Every script that counts ends with this.
local function settle()
  local changed = {}
  for _, agent in ipairs(movers) do
    if moved[agent] ~= 0 or known_to_work[agent] then changed[#changed + 1] = agent end
  end
  if #changed == 0 then return end
  local busy, idle, fields = {}, {}, {}
  for i, before in ipairs(redis.call('HMGET', AGENTS, unpack(changed))) do
    local agent = changed[i]
    local tasks = (before or 0) + moved[agent]
    if tasks > 0 then
      busy[#busy + 1], busy[#busy + 2] = agent, tasks
    else
      idle[#idle + 1], fields[#fields + 1] = agent, 'working:' .. agent
    end
  end
  if #busy > 0 then redis.call('HSET', AGENTS, unpack(busy)) end
  if #idle == 0 then return end
  redis.call('HDEL', AGENTS, unpack(idle))
  local worked = redis.call('HMGET', META, unpack(fields))
  redis.call('HDEL', META, unpack(fields))
  for i, agent in ipairs(idle) do
    local feed = feeds[agent]
    if worked[i] and feed then
      event('agent_state_changed', '"agent_id":' .. quote(agent) .. ',' .. state_change('working', 'idle', ''), feed)
    end
  end
end

-- Says that a task begins, the first time. Whether this was the first. `brief`: it has ended, too, so the feeds don't
-- say that its agent works.
local function assigned(item, h, brief)
  if h.started == '0' then h.started = now end
  if h.known == '2' then return false end
  if h.known == '0' then count(h.agent, 1, item.agent_events) end
  if not brief then working(h.agent, item.agent_events) end
  h.known = '2'
  local message = h.attempt ~= '1' and 'attempt ' .. h.attempt or ''
  item_event(item, 'task_assigned', h.agent, message)
  if item.run_id then item_event(item, 'mission_work_assigned', h.agent, message) end
  return true
end
