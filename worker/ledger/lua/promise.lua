-- promise(sid, amount, again, scope ...) -> {'ok'} | {why, scope, free}; why as in reserve
-- p:<scope> hash: kept until the session ends; a:<scope> is only read; j stream
-- All accounts promise, or none. Each has as much left as its cap carries beside what is posted, held
-- and promised to others. Of several with too little the tightest is named. What a lost ledger had
-- promised is promised `again`, whatever is left.
local sid, amt, again = ARGV[1], amount(ARGV[2]), ARGV[3] == '1'
if redis.call('HEXISTS', promises_key(ARGV[4]), sid) == 1 then return {'ok'} end
if not again then
  if killed() then return {'killed', ARGV[4], '0'} end
  local tightest, least
  for i = 4, #ARGV do
    local scope = ARGV[i]
    local a = fields_of(scope)
    if not a[1] then return {'no_account', scope, '0'} end
    local room = math.max(a[1] - a[2] - a[3] - promised(scope, sid), 0)
    if a[7] == '1' then return {'closed', scope, int(room)} end
    if a[6] == '1' then return {'frozen', scope, int(room)} end
    if not least or room < least then tightest, least = scope, room end
  end
  if amt > least then return {'cap', tightest, int(least)} end
end
for i = 4, #ARGV do redis.call('HSET', promises_key(ARGV[i]), sid, int(amt)) end
log('promise', 'session', sid, 'amount', int(amt))
return {'ok'}
