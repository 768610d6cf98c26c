-- How much a crew has to do, as of one moment. Only reads.
-- uses limits counts

-- What figures.lua answers: `most` results are looked at, behind the id `behind`.
local function figures_of(most, behind)
  local meta = redis.call('HMGET', META, 'uid', 'refused', 'trimmed', 'delivers', 'suspended', 'batched', 'limits')
  if not meta[1] then return {} end
  heed(meta[7])

  local classes, not_running, limited, counts = {}, 0, 0, count_classes()
  for _, class in ipairs(CLASSES) do
    local of = counts[class]
    classes[#classes + 1], classes[#classes + 2], classes[#classes + 3] = of.waiting, of.running, of.head
    not_running, limited = not_running + of.back + of.limited + of.free, limited + of.limited
  end
  local workers = live_workers()

  local ended = {}
  local stream = most > 0 and redis.call('EXISTS', RESULTS) == 1 and by_name(redis.call('XINFO', 'STREAM', RESULTS))
  if stream then
    local seen, completed, failed = 0, 0, 0
    if behind ~= '' then
      for _, entry in ipairs(redis.call('XREVRANGE', RESULTS, '+', '(' .. behind, 'COUNT', most)) do
        local result = by_name(entry[2])
        seen = seen + 1
        if result['kind'] ~= 'run' then     -- its steps are counted
          local state = result['state']
          if state == 'completed' then completed = completed + 1
          elseif state == 'failed' or state == 'dead' then failed = failed + 1 end
        end
      end
    end
    ended = { stream['entries-added'], stream['last-generated-id'], seen, completed, failed }
  end

  local outbox = {}
  if meta[4] then
    local first = redis.call('XRANGE', OUTBOX, '-', '+', 'COUNT', 1)[1]
    outbox = { redis.call('XLEN', OUTBOX), first and first[1] or '' }
  end

  local due, soonest = redis.call('ZRANGE', DELAYED, 0, 0, 'WITHSCORES')[2], limits and limiting().soonest_ms()
  if soonest then due = int(math.min(tonumber(due) or FAR, now_ms + soonest)) end
  return { now_ms, due or '', redis.call('ZCARD', DELAYED), redis.call('HLEN', HOLDERS) - not_running,
    redis.call('ZCARD', PARKED), redis.call('ZCARD', PARKED_AGENT), redis.call('ZCARD', PARKED_INTERRUPT),
    limited, redis.call('XLEN', DEAD), tonumber(meta[2] or '0'), tonumber(meta[3] or '0'), meta[5] or '',
    meta[6] and 1 or 0, classes, workers, ended, outbox }
end
