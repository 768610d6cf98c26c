-- What the feeds say: the crew's, an agent's, a run's. JSON is written here, never read.
-- uses nothing

local stamped
local function stamp()          -- now as ISO 8601; Redis has no os.date
  if not stamped then
    local seconds = math.floor(now_us / 1e6)
    local days = math.floor(seconds / 86400)
    local rest = seconds - days * 86400
    local z = days + 719468
    local era = math.floor(z / 146097)
    local doe = z - era * 146097
    local yoe = math.floor((doe - math.floor(doe / 1460) + math.floor(doe / 36524) - math.floor(doe / 146096)) / 365)
    local doy = doe - (365 * yoe + math.floor(yoe / 4) - math.floor(yoe / 100))
    local mp = math.floor((5 * doy + 2) / 153)
    local day = doy - math.floor((153 * mp + 2) / 5) + 1
    local month = mp < 10 and mp + 3 or mp - 9
    local year = yoe + era * 400 + (month <= 2 and 1 or 0)
    stamped = string.format('%04d-%02d-%02dT%02d:%02d:%02d.%06dZ', year, month, day, math.floor(rest / 3600),
      math.floor(rest % 3600 / 60), rest % 60, now_us % 1e6)
  end
  return stamped
end

local quoted = {}
local function quote(text)
  local q = quoted[text]
  if not q then
    q = cjson.encode(text)
    quoted[text] = q
  end
  return q
end

-- A feed is trimmed and prolonged with the first of a call's events, and with every fiftieth: together these two cost
-- most of another event.
local appended = {}
local function append(feed, most, kind, data)
  local n = appended[feed] or 0
  appended[feed] = n + 1
  if n % 50 > 0 then
    redis.call('XADD', feed, '*', 'event_type', kind, 'data', data)
    return
  end
  redis.call('XADD', feed, 'MAXLEN', '~', most, '*', 'event_type', kind, 'data', data)
  redis.call('EXPIRE', feed, DAY)
end

-- `others`: streams of other agents that the event names.
local function event(kind, fields, agent_events, run_events, others)
  local data = '{"event_type":"' .. kind .. '","timestamp":"' .. stamp() .. '",' .. fields .. '}'
  append(EVENTS, 1000, kind, data)
  if agent_events then append(agent_events, 100, kind, data) end
  if run_events then append(run_events, 500, kind, data) end
  if others then
    for _, stream in ipairs(others) do append(stream, 100, kind, data) end
  end
end

-- An event of a task or step. The fields that name it are kept from one event to the next: its beginning and its end
-- follow each other. An id has one agent, or only a role, and one run. `more`: further fields, and the streams of the
-- agents that they name.
local named, naming, has_agent
local function item_event(item, kind, agent, message, more)
  if named ~= item.id then
    named = item.id
    has_agent = not role_of(agent)
    naming = (has_agent and '"agent_id":' .. quote(agent) .. ',' or '') .. '"task_id":' .. quote(item.id)
      .. (item.run_id and ',"mission_id":' .. quote(item.run_id) or '') .. ',"message":'
  end
  local fields = naming .. (message == '' and '""' or quote(message))
  local agent_events = has_agent and item.agent_events
  if more then return event(kind, fields .. more.fields, agent_events, item.run_events, more.streams) end
  event(kind, fields, agent_events, item.run_events)
end

-- A worker went without leaving. Its lease stays until all that it held is taken.
local function vanished(inc)
  if redis.call('HDEL', WORKERS, inc) == 1 then
    event('worker_lost', '"message":' .. quote('worker ' .. inc .. ' has vanished: its lease ran out'))
  end
end

local function state_change(old, new, message)
  return '"old_state":"' .. old .. '","new_state":"' .. new .. '","message":' .. quote(message)
end
